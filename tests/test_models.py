"""The generator and its derivative; generators of other architectures; bf16."""
import pytest
import torch
from conftest import SMALL
from torch import nn

import abp
from inference.posterior import Posterior, frozen, jacobian
from models import GenNet
from runs.options import UserError

BF16 = torch.bfloat16


class FullyConnected(nn.Module):
    """Any layers from z to images of side 16."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        return self.layers(z).view(len(z), 3, 16, 16)


class Residual(nn.Module):
    """A generator with a skip connection and a 1 x 1 convolution after its deconvolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.skip = nn.Linear(2, 8 * 64), nn.Linear(2, 3 * 256)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.mix = nn.Conv2d(8, 3, 1)

    def forward(self, z):
        image = self.mix(torch.relu(self.up(self.first(z).view(-1, 8, 8, 8))))
        return torch.tanh(image + self.skip(z).view(-1, 3, 16, 16))


def deconvolutions(activation, last):
    return FullyConnected(nn.Linear(2, 128), nn.Unflatten(1, (8, 4, 4)), activation,
                          nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.GroupNorm(2, 8), activation,
                          nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.Conv2d(4, 3, 3, padding=1), last)


ARCHITECTURES = {
    "models.GenNet": lambda: GenNet(2, 16, 32, 2, 0),
    "ReLU": lambda: deconvolutions(nn.ReLU(), nn.Tanh()),
    "LeakyReLU, Sigmoid": lambda: deconvolutions(nn.LeakyReLU(0.2), nn.Sigmoid()),
    "ELU, no last activation": lambda: deconvolutions(nn.ELU(), nn.Identity()),
    "fully connected": lambda: FullyConnected(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 768),
                                              nn.Tanh()),
    "upsampling": lambda: FullyConnected(
        nn.Linear(2, 128), nn.Unflatten(1, (8, 4, 4)), nn.Upsample(scale_factor=4, mode="bilinear"),
        nn.Conv2d(8, 3, 3, padding=1), nn.Hardtanh()),
    "residual": Residual}


def check_jacobian(net, nz, h=1e-6):
    """J against central differences."""
    net, z, eye = net.double(), torch.randn(3, nz, dtype=torch.double), torch.eye(nz).double()
    images, found = jacobian(net, z)
    with torch.no_grad():
        expected = torch.stack([net(z + h * e) - net(z - h * e) for e in eye]) / (2 * h)
        assert torch.allclose(images, net(z))
    assert found.shape == (nz, *images.shape) and not found.requires_grad
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("nz, img_size", [(1, 16), (2, 64), (11, 32)])
def test_jacobian(nz, img_size):
    torch.manual_seed(0)
    check_jacobian(GenNet(nz, img_size, 32, 4), nz)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_jacobian_and_training_of_own_generator(monkeypatch, images, name):
    torch.manual_seed(0)
    check_jacobian(ARCHITECTURES[name](), nz=2)
    monkeypatch.setattr(abp, "GenNet", lambda *_: ARCHITECTURES[name]())
    for precision in ("fp32", "bf16"):
        rows = list(abp.ABP(abp.Config(**SMALL | {"n_epochs": 30}), images, precision=precision))
        assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["unstable"] < 0.2


def test_batch_normalisation_and_wrong_image_shapes_are_refused(monkeypatch, images):
    normalised = deconvolutions(nn.BatchNorm2d(8), nn.Tanh())
    for net, words in ((normalised, "BatchNorm2d.*GroupNorm"),
                       (GenNet(2, 32, 8, 2), r"\(2, 3, 16, 16\)")):
        monkeypatch.setattr(abp, "GenNet", lambda *_, net=net: net)
        with pytest.raises(UserError, match=words):
            abp.ABP(abp.Config(**SMALL), images)


def test_bf16_does_not_round_the_latent():
    """Rounded to 8 bits, latents from 1.7 to 1.702 would give one image."""
    torch.manual_seed(0)
    net = GenNet(2, 64)
    z = torch.cat([torch.randn(8, 2), torch.stack([torch.linspace(1.7, 1.702, 8), torch.ones(8)],
                                                  1)])
    with torch.no_grad(), torch.autocast("cpu", BF16):
        bf16, j16 = net(z).float(), jacobian(net, z)[1]
    with torch.no_grad():
        fp32, j32 = net(z), jacobian(net, z)[1]
    assert (fp32 - bf16).square().mean() < 1e-3 * fp32.var()
    assert len(bf16[8:].flatten(1).unique(dim=0)) == 8
    assert j16.dtype == BF16 and (j32 - j16.float()).norm() < 0.03 * j32.norm()


def test_frozen_generator():
    net, z = GenNet(2, 16, 8, 2), torch.randn(4, 2)
    fixed = frozen(net)
    before = fixed(z)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert torch.equal(fixed(z), before) and not any(p.requires_grad for p in fixed.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_posteriors_in_bf16_and_float32_agree():
    torch.manual_seed(0)
    net, z = GenNet(2, 64), 0.5 * torch.randn(6, 2)
    images = net(torch.randn(6, 2)).detach()
    exact, quick = (Posterior(frozen(net), images, 1.0, 1.0, d) for d in (torch.float32, BF16))
    for a, b, tolerance in zip(exact.local(z), quick.local(z), (0.01, 0.05, 0.05), strict=True):
        assert (a - b).norm() < tolerance * a.norm()
    change, quick_change = (p.energy(z + 0.01) - p.energy(z) for p in (exact, quick))
    assert torch.allclose(change, quick_change, atol=0.3)


def test_smooth_deconvolutions_interpolate():
    """Linear features stay linear for any weights."""
    torch.manual_seed(0)
    net = GenNet(2, 64, 16, 4, smooth=2)
    for convolution, upsample in zip(net.deconv[4::3], net.deconv[5::3], strict=True):
        ramp = torch.linspace(0, 1, 16).expand(1, convolution.in_channels, 16, 16)
        with torch.no_grad():
            steps = upsample(convolution(ramp))[0, :, 3:-3, 3:-3].diff(dim=2)
        assert torch.allclose(steps, steps.mean(2, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("smooth, n_smooth", [(0, 0), (1, 1), (3, 3), (9, 3)])
def test_number_of_smooth_deconvolutions(smooth, n_smooth):
    layers = GenNet(2, 128, 8, 2, smooth).deconv
    assert sum(isinstance(layer, nn.Upsample) for layer in layers) == n_smooth
    assert all(isinstance(layers[k], nn.ConvTranspose2d) for k in (0, 2))
