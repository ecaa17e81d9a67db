"""log p by quadrature against closed forms, brute force and annealed importance sampling."""
import math

import pytest
import torch
from conftest import LinearNet

from evaluation.likelihood import Joint
from evaluation.modes import Modes, find_modes, merged, survey
from evaluation.quadrature import importance, log_evidence, ml_sigma
from inference.posterior import sample_gaussian_prior
from inference.samplers import TARGET_GRADIENT, smmala

N = 5


@pytest.fixture(scope="module")
def linear():
    """linear(sigma, prior_sigma, visible): Joint of a linear generator, z of its images, log p.

    Rows of pixels from `visible` on are hidden.
    """
    def make(sigma, prior_sigma=1.0, visible=16):
        generator = torch.Generator().manual_seed(3)
        layer = torch.nn.Linear(2, 768)
        layer.weight.data = 0.15 * torch.randn(768, 2, generator=generator)
        layer.bias.data = 0.1 * torch.randn(768, generator=generator)
        z = prior_sigma * torch.randn(N, 2, generator=generator)
        images = (layer(z) + sigma * torch.randn(N, 768, generator=generator)).detach()
        mask = torch.zeros(N, 1, 16, 16)
        mask[:, :, :visible] = 1
        seen = mask[0].expand(3, -1, -1).flatten().bool()
        images[:, ~seen] = 9.0
        w = prior_sigma * layer.weight.detach()[seen].double()
        covariance = w @ w.T + sigma**2 * torch.eye(len(w), dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(layer.bias.detach()[seen].double(),
                                                       covariance)
        joint = Joint(LinearNet(layer), images.view(N, 3, 16, 16), prior_sigma,
                      mask=None if seen.all() else mask)
        return joint, z, exact.log_prob(images[:, seen].double())
    return make


class TwoAnimals(torch.nn.Module):
    """g(z) = direction (z_1^2 - 1) + z_2 other: every image has two modes, at z_1 and -z_1."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.direction = torch.nn.Parameter(0.2 * torch.randn(2, 3, 16, 16, generator=generator))

    def forward(self, z):
        code = torch.stack([z[:, 0] ** 2 - 1, z[:, 1]], 1)
        return torch.einsum("na,acij->ncij", code, self.direction)


def evidence(joint, z, sigma, **options):
    plane = survey(joint)
    return log_evidence(joint, plane, find_modes(joint, plane, sigma, z), sigma, **options)


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("prior_sigma, visible", [(1.0, 16), (2.5, 16), (1.0, 8)])
def test_log_p_of_a_linear_generator(linear, sigma, prior_sigma, visible):
    joint, z, log_p = linear(sigma, prior_sigma, visible)
    found = evidence(joint, z, sigma)
    gap = (found.log_p - log_p).abs()
    assert gap.max() < 1e-3
    assert (gap < found.error).all() and found.error.max() < 1e-2


def test_posterior_moments_of_a_linear_generator(linear):
    sigma = 0.4
    joint, z, _ = linear(sigma)
    found = evidence(joint, z, sigma)
    code = joint.net.code.double()
    weight, bias = code.weight.detach(), code.bias.detach()
    covariance = torch.linalg.inv(weight.T @ weight / sigma**2 + torch.eye(2))
    pull = (joint.images.flatten(1).double() - bias) @ weight / sigma**2
    std = covariance.diagonal().sqrt()
    assert ((found.mean - pull @ covariance) / std).abs().max() < 1e-3
    assert (found.covariance / covariance - 1).abs().max() < 1e-3
    residual = joint.images.flatten(1).double() - bias - found.mean @ weight.T
    expected = residual.square().sum(1) + (weight @ covariance @ weight.T).trace()
    assert (found.squared_error / expected - 1).abs().max() < 1e-5


def test_two_modes_against_brute_force():
    net, sigma = TwoAnimals(), 0.5
    z = torch.tensor([[0.9, 0.3], [0.05, -1.0], [1.6, 0.0]])
    noise = sigma * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    joint = Joint(net, (net(z) + noise).detach(), 1.0)
    found = evidence(joint, z, sigma)
    fine = survey(joint, reach=4.0, cells=400)                  # .02 wide, modes are .05 and more
    index = torch.arange(3).repeat_interleave(len(fine.z))
    log_joint = joint.log_joint(fine.squared_error.flatten(), index, fine.z.repeat(3, 1), sigma)
    log_joint = log_joint.view(3, -1)
    brute = log_joint.logsumexp(1) + math.log(fine.area)
    assert (found.log_p - brute).abs().max() < 2e-3             # of matrix products in float32
    counts = found.modes.image.bincount()
    assert counts[0] == 2 and counts[2] == 2
    share = (log_joint - log_joint.logsumexp(1, keepdim=True)).exp()
    assert (found.mean - share @ fine.z).abs().max() < 2e-3


def test_mass_on_the_coarse_grid_outside_the_modes_is_found():
    net, sigma = TwoAnimals(), 0.5
    z = torch.tensor([[0.9, 0.3]])
    joint = Joint(net, net(z).detach(), 1.0)
    plane = survey(joint)
    both = find_modes(joint, plane, sigma, z)
    one = type(both)(*(values[both.z[:, 0] > 0] for values in both))
    assert len(both.z) == 2 and len(one.z) == 1
    found = log_evidence(joint, plane, one, sigma)
    both = evidence(joint, z, sigma)   # the lattice was widened until it was covered
    assert (found.log_p - both.log_p).abs() <= found.error + both.error
    narrow = log_evidence(joint, plane, one, sigma, tolerance=10.0)
    assert narrow.log_p < both.log_p - 0.6 and narrow.error > 0.6    # half the mass: ln 2


def test_merged_modes_have_the_same_moments():
    def modes(*rows):
        columns = zip(*rows, strict=True)
        return Modes(*(torch.stack([torch.as_tensor(v) for v in column]) for column in columns))

    eye = torch.eye(2, dtype=torch.float64)
    near = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    both = merged(modes((0, near[0], eye, math.log(0.75)), (0, near[1], 2 * eye, math.log(0.25)),
                         (0, near[2], eye, math.log(0.1)), (1, near[3], eye, 0.0)))
    assert both.image.tolist() == [0, 0, 1]
    assert both.log_mass.exp().tolist() == pytest.approx([1.0, 0.1, 1.0])
    assert both.z[0].tolist() == pytest.approx([0.25, 0])
    covariance = both.factor[0] @ both.factor[0].T    # .75 (1 + .25^2) + .25 (4 + .75^2)
    assert covariance.flatten().tolist() == pytest.approx([1.9375, 0, 0, 1.75])


def test_importance_sampling_agrees_with_the_right_sigma_only(linear):
    joint, z, log_p = linear(0.3)
    modes = evidence(joint, z, 0.3).modes
    estimate, error = importance(joint, modes, 0.3, n_draws=2000)
    assert (error < 0.05).all() and ((estimate - log_p).abs() < 4 * error).all()
    estimate, error = importance(joint, modes, 0.33, n_draws=2000)
    assert ((estimate - log_p).abs() > 4 * error).all()


def test_ml_sigma_is_the_maximum(linear):
    joint, z, _ = linear(0.3)
    sigma, found = ml_sigma(joint, survey(joint), z + 0.3)
    assert abs(sigma / 0.3 - 1) < 0.05
    for other in (0.97 * sigma, 1.03 * sigma):
        assert evidence(joint, z, other).log_p.sum() < found.log_p.sum() - 0.1
    sigma, found = ml_sigma(joint, survey(joint), z + 20, tolerance=0, rounds=1)  # not converged
    assert (found.log_p - evidence(joint, z, sigma).log_p).abs().max() < 1e-2


def annealed(joint, index, sigma, n_chains=64, n_steps=100):
    """log p of the images `index` by annealed importance sampling (Neal 2001) -> (m,) nats.

    It goes through p(I | z)^beta p(z), the posterior at sigma / sqrt(beta).
    """
    torch.manual_seed(0)
    chain_of = index.repeat_interleave(n_chains)
    z = sample_gaussian_prior(len(chain_of), 2, joint.prior_sigma)
    betas = torch.linspace(0, 1, n_steps + 1).double() ** 4
    log_weight, step = torch.zeros(len(z)).double(), 1.0
    for low, high in zip(betas[:-1], betas[1:], strict=True):
        log_weight -= (high - low) * joint.squared_error(chain_of, z) / (2 * sigma**2)
        local = joint.posterior(chain_of, sigma / high.item() ** 0.5).local
        chains = smmala(local, z, 2, step, TARGET_GRADIENT)
        z, step = chains.z, chains.step
    log_p = log_weight.view(-1, n_chains).logsumexp(1) - math.log(n_chains)
    return log_p - joint.n_values[index] / 2 * math.log(2 * math.pi * sigma**2)


@pytest.mark.slow
def test_quadrature_agrees_with_annealed_importance_sampling(images, make_model):
    model = make_model(n_epochs=60, learn_num_steps=8, mse_sigma=0.3)
    list(model)
    joint, index = Joint(model.net, images, 1.0), torch.arange(3)
    found = evidence(joint, model.z, 0.3)
    assert (found.log_p[index] - annealed(joint, index, 0.3)).abs().max() < 0.5
