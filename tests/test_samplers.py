"""The samplers against densities whose answer is known."""
import math

import pytest
import torch

from samplers import langevin, langevin_acceptance, smmala

PRECISION = torch.tensor([[4.0, 1.0], [1.0, 9.0]])


def gaussian(z):
    return 0.5 * torch.einsum("na,ab,nb->n", z, PRECISION, z)


def local_gaussian(z):
    return gaussian(z), z @ PRECISION, PRECISION.expand(len(z), 2, 2)


def test_one_step_drifts_by_half_s_squared_and_adds_noise_of_std_s():
    torch.manual_seed(0)
    z, s = torch.tensor([[1.0, -2.0]]).expand(200_000, 2), 0.1
    new = langevin(gaussian, z, 1, s)
    drift = -s**2 / 2 * (z[:1] @ PRECISION)
    assert torch.allclose((new - z).mean(0), drift[0], atol=5 * s / math.sqrt(len(z)))
    assert torch.allclose((new - z).std(0), torch.full((2,), s), rtol=0.01)


@pytest.mark.parametrize("s", [0.1, 0.3])
def test_langevin_has_exactly_its_known_bias(s):
    torch.manual_seed(0)
    z = langevin(gaussian, torch.randn(40_000, 2), 400 if s < 0.2 else 100, s)
    values, vectors = torch.linalg.eigh(PRECISION)
    variance = (z @ vectors).var(0)
    assert torch.allclose(variance, 1 / (values * (1 - s**2 * values / 4)), rtol=0.03)


def test_langevin_is_unstable_beyond_s_squared_lambda_of_4():
    largest = torch.linalg.eigvalsh(PRECISION)[-1].item()
    torch.manual_seed(0)
    below = langevin(gaussian, torch.randn(100, 2), 200, math.sqrt(3.6 / largest))
    beyond = langevin(gaussian, torch.randn(100, 2), 200, math.sqrt(4.4 / largest))
    assert below.abs().max() < 20 < beyond.abs().max()


def test_langevin_takes_a_step_size_for_each_chain():
    torch.manual_seed(0)
    z = torch.zeros(20_000, 2)
    s = torch.where(torch.arange(len(z)) % 2 == 0, 0.1, 0.4).unsqueeze(1)
    new = langevin(gaussian, z, 1, s)
    assert new[::2].std() == pytest.approx(0.1, rel=0.02) and new[1::2].std() == pytest.approx(0.4, rel=0.02)


def test_langevin_reports_each_step_to_the_callback():
    seen = []
    torch.manual_seed(0)
    langevin(gaussian, torch.ones(3, 2), 4, 0.1, lambda *state: seen.append(state))
    assert [state[0] for state in seen] == [0, 1, 2, 3, 4]
    for _, z, energy, grad in seen:
        assert torch.allclose(energy, gaussian(z)) and torch.allclose(grad, z @ PRECISION)
        assert not (z.requires_grad or energy.requires_grad or grad.requires_grad)


def test_smmala_reports_each_step_to_the_callback():
    seen = []
    torch.manual_seed(0)
    z, acceptance, _ = smmala(local_gaussian, torch.ones(3, 2), 4, callback=lambda *state: seen.append(state))
    assert [state[0] for state in seen] == [0, 1, 2, 3] and torch.equal(seen[-1][1], z)
    assert torch.allclose(torch.stack([state[4] for state in seen]).mean(0), acceptance)
    assert all(torch.allclose(state[2], gaussian(state[1])) for state in seen)


def test_zero_steps_return_the_start():
    z = torch.randn(3, 2)
    assert torch.equal(langevin(gaussian, z, 0, 0.1), z)
    assert torch.equal(smmala(local_gaussian, z, 0)[0], z)


def test_smmala_has_mean_and_covariance_without_bias():
    torch.manual_seed(0)
    z, acceptance, metric = smmala(local_gaussian, torch.randn(40_000, 2) + 1, 30)
    assert torch.allclose(z.mean(0), torch.zeros(2), atol=0.01)
    assert torch.allclose(torch.cov(z.T), torch.linalg.inv(PRECISION), atol=0.006)
    assert 0.8 < acceptance.mean() < 0.95
    assert torch.equal(metric[0], PRECISION)


def test_smmala_is_exact_on_two_unequal_modes_with_a_metric_that_varies():
    """A one-dimensional mixture against a fine grid; leaving the metric out of the ratio fails here."""
    def local(z):
        z = z.detach().requires_grad_(True)
        logs = torch.stack([math.log(0.7) - z.square(), math.log(0.3) - (z - 2).square() / 0.5])
        u = -torch.logsumexp(logs, 0)[:, 0]
        (grad,) = torch.autograd.grad(u.sum(), z)
        return u.detach(), grad, (1 + z.detach().square()).unsqueeze(2)

    torch.manual_seed(0)
    z, _, _ = smmala(local, torch.randn(20_000, 1), 150)
    grid = torch.linspace(-6, 8, 20_001).unsqueeze(1)
    weight = torch.softmax(-local(grid)[0], 0)
    mean = (weight * grid[:, 0]).sum()
    variance = (weight * (grid[:, 0] - mean) ** 2).sum()
    assert z.mean().item() == pytest.approx(mean.item(), abs=0.03)
    assert z.var().item() == pytest.approx(variance.item(), rel=0.04)
    assert (z > 1).float().mean().item() == pytest.approx(weight[grid[:, 0] > 1].sum().item(), abs=0.015)


def test_smmala_rejects_what_is_not_finite_and_leaves_a_start_that_is_not():
    def local(z):
        u, grad, metric = local_gaussian(z)
        return torch.where(z[:, 0] > 0, math.nan, u), grad, metric

    torch.manual_seed(0)
    z, _, _ = smmala(local, torch.tensor([[-0.5, 0.1]]).expand(500, 2), 50)
    assert torch.isfinite(z).all() and (z[:, 0] <= 0).all()
    z, _, _ = smmala(local, torch.tensor([[0.1, 0.1]]).expand(500, 2), 50)
    assert (z[:, 0] <= 0).all()


def test_huge_steps_are_rejected_and_tiny_steps_accepted():
    torch.manual_seed(0)
    start = torch.randn(200, 2)
    z, acceptance, _ = smmala(local_gaussian, start, 3, step=1e6)
    assert torch.equal(z, start) and acceptance.max() < 1e-3
    assert smmala(local_gaussian, start, 3, step=1e-3)[1].min() > 0.99


def test_langevin_acceptance_tells_a_fitting_step_from_an_unstable_one():
    torch.manual_seed(0)
    for s, low, high in ((0.05, 0.98, 1.0), (0.9, 0.0, 0.25)):
        trace = []
        start = torch.randn(2000, 2) @ torch.linalg.cholesky(torch.linalg.inv(PRECISION)).T
        langevin(gaussian, start, 1, s, lambda _, *state, keep=trace: keep.append(state))
        assert low < langevin_acceptance(*trace[0], *trace[1], s).mean() <= high
