"""The generator's layers against torch's own, its derivatives against finite differences, bf16."""
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

import deconv
from deconv import Deconv
from models import GenNet
from posterior import Posterior, frozen

BF16 = torch.bfloat16


@pytest.mark.parametrize("form", ["strided", "2 x 2"])
@pytest.mark.parametrize("channels, out, side", [(8, 5, 4), (6, 3, 16), (3, 7, 5)])
def test_both_forms_of_the_deconvolution_are_torchs(monkeypatch, channels, out, side, form):
    monkeypatch.setattr(deconv, "FEW_CHANNELS", 1000 if form == "2 x 2" else 1)
    monkeypatch.setattr(deconv, "LARGE_SIDE", 1 if form == "2 x 2" else 1000)
    torch.manual_seed(0)
    layer, x = Deconv(channels, out).double(), torch.randn(2, channels, side, side, dtype=torch.double)
    x.requires_grad_(True)
    inputs, grad = (x, layer.weight, layer.bias), torch.randn(2, out, 2 * side, 2 * side, dtype=torch.double)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1)
    assert torch.allclose(layer(x), expected)
    for ours, torchs in zip(torch.autograd.grad(layer(x), inputs, grad),
                            torch.autograd.grad(expected, inputs, grad), strict=True):
        assert torch.allclose(ours, torchs)
    assert torch.allclose(layer.tangent(x), F.conv_transpose2d(x, layer.weight, None, 2, 1))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_deconvolution_gives_the_gradients_that_are_asked_for(wanted):
    layer, x = Deconv(4, 3).requires_grad_(False), torch.randn(2, 4, 16, 16)
    inputs = (x, layer.weight, layer.bias)
    inputs[wanted].requires_grad_(True)
    layer(x).square().sum().backward()
    assert [i.grad is not None for i in inputs] == [k == wanted for k in range(3)]


@pytest.mark.parametrize("nz, img_size", [(1, 16), (2, 64), (11, 32)])
def test_the_jacobian_is_that_of_finite_differences(nz, img_size):
    torch.manual_seed(0)
    net, z, h = GenNet(nz, img_size, 32, 4).double(), torch.randn(3, nz, dtype=torch.double), 1e-5
    images, jacobian = net.jacobian(z, torch.double)
    with torch.no_grad():
        expected = torch.stack([net(z + h * e, torch.double) - net(z - h * e, torch.double)
                                for e in torch.eye(nz, dtype=torch.double)]) / (2 * h)
        assert torch.allclose(images, net(z, torch.double))
    assert jacobian.shape == (nz, 3, 3, img_size, img_size) and not jacobian.requires_grad
    assert torch.allclose(jacobian, expected, atol=1e-6)


def test_bf16_is_near_float32_and_does_not_round_the_latent():
    """Rounded to 8 bits, latents from 1.7 to 1.702 would give one image; the posterior is that narrow."""
    torch.manual_seed(0)
    net = GenNet(2, 64)
    z = torch.cat([torch.randn(8, 2), torch.stack([torch.linspace(1.7, 1.702, 8), torch.ones(8)], 1)])
    with torch.no_grad():
        fp32, bf16 = net(z), net(z, BF16).float()
    assert (fp32 - bf16).square().mean() < 1e-3 * fp32.var()
    assert len(bf16[8:].flatten(1).unique(dim=0)) == 8
    (_, j32), (_, j16) = net.jacobian(z), net.jacobian(z, BF16)
    assert j16.dtype == BF16 and (j32 - j16.float()).norm() < 0.03 * j32.norm()


def test_a_frozen_generator_keeps_its_weights_and_wants_no_gradients():
    net, z = GenNet(2, 16, 8, 2), torch.randn(4, 2)
    fixed = frozen(net, BF16)
    before = fixed(z, BF16)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert torch.equal(fixed(z, BF16), before) and not any(p.requires_grad for p in fixed.parameters())
    assert all(p.requires_grad for p in net.parameters()) and net.deconv[0].weight.dtype == torch.float32


def test_posteriors_in_bf16_and_float32_agree():
    """Energies differ by less than noise would, gradients and metrics by a few per cent."""
    torch.manual_seed(0)
    net, z = GenNet(2, 64), 0.5 * torch.randn(6, 2)
    images = net(torch.randn(6, 2)).detach()
    exact, quick = (Posterior(frozen(net, d), images, 1.0, 1.0, d) for d in (torch.float32, BF16))
    for a, b, tolerance in zip(exact.local(z), quick.local(z), (0.01, 0.05, 0.05), strict=True):
        assert (a - b).norm() < tolerance * a.norm()
    change, quick_change = (p.energy(z + 0.01) - p.energy(z) for p in (exact, quick))
    assert torch.allclose(change, quick_change, atol=0.3)


def test_smooth_deconvolutions_interpolate_and_learn_a_mixture_of_channels():
    """Features that are the same everywhere, or change linearly, keep their shape, before and after steps."""
    torch.manual_seed(0)
    net, z = GenNet(2, 64, 16, 4, smooth=2), torch.randn(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(3):
        (net(z) - 0.5).square().mean().backward()
        optimizer.step()
    for k, layer in enumerate(net.deconv[::2]):
        ramp = torch.linspace(0, 1, 16).expand(1, layer.in_channels, 16, 16)
        with torch.no_grad():
            steps = layer(ramp)[0, :, 3:-3, 3:-3].diff(dim=2)
        is_ramp = torch.allclose(steps, steps.mean(2, keepdim=True), atol=1e-5)
        assert is_ramp == (k >= 2)
    assert net.deconv[4].parametrizations.weight.original.shape == (16, 16, 1, 1)


@pytest.mark.parametrize("smooth, n_smooth", [(0, 0), (1, 1), (3, 3), (9, 3)])
def test_the_first_two_deconvolutions_are_never_made_smooth(smooth, n_smooth):
    layers = GenNet(2, 128, 8, 2, smooth).deconv[::2]
    assert [is_parametrized(layer) for layer in layers] == (5 - n_smooth) * [False] + n_smooth * [True]
    assert not any(is_parametrized(layer) for layer in GenNet(2, 16, 8, 2, smooth).deconv[::2])


def test_the_jacobian_of_a_smooth_generator_is_that_of_its_frozen_copy():
    torch.manual_seed(0)
    net, z = GenNet(2, 64, 16, 4, smooth=2), torch.randn(3, 2)
    expected = torch.stack([(net(z + h) - net(z - h)) / 2e-2 for h in 1e-2 * torch.eye(2)])
    for found in (net.jacobian(z)[1], frozen(net).jacobian(z)[1]):
        assert torch.allclose(found, expected, atol=2e-3)
    images, _ = frozen(net, BF16).jacobian(z, BF16)
    assert images.dtype == BF16 and (images - net(z)).abs().max() < 0.05
