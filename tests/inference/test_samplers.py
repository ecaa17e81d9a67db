"""Samplers on known densities; wrong versions of the samplers fail the same checks."""
import math

import pytest
import torch

from abp import MOST_AGE
from inference import samplers
from inference.samplers import TARGET_GRADIENT, TARGET_WALK, langevin, mala, rw_mh, smmala

PRECISION = torch.tensor([[4.0, 1.0], [1.0, 9.0]])
EXACT = ("rw_mh", "mala", "smmala")
ALL = ("langevin", *EXACT)


def gaussian(z):
    return 0.5 * torch.einsum("na,ab,nb->n", z, PRECISION, z)


def unit(z):
    return z.flatten(1).square().sum(1) / 2


def with_metric(neg_log_density, metric):
    """local(z) of smmala for a density and a metric z (n, d) -> (n, d, d)."""
    def local(z):
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            energy = neg_log_density(z)
            (grad,) = torch.autograd.grad(energy.sum(), z)
        return energy.detach(), grad, metric(z.detach())
    return local


def curved(z):
    """A metric that changes with z."""
    eye = torch.eye(z.shape[1])
    return 2 * (eye * (1 + z.square().sum(1))[:, None, None] + z[:, :, None] * z[:, None, :])


def run(name, neg_log_density, z, n_steps, step, metric=curved, **options):
    """A sampler by its name on a density."""
    if name == "smmala":
        return smmala(with_metric(neg_log_density, metric), z, n_steps, step, **options)
    sampler = {"langevin": langevin, "mala": mala, "rw_mh": rw_mh}[name]
    return sampler(neg_log_density, z, n_steps, step, **options)


def test_drift_and_noise_of_a_langevin_step():
    torch.manual_seed(0)
    z, s = torch.tensor([[1.0, -2.0]]).expand(200_000, 2), 0.1
    new = langevin(gaussian, z, 1, s).z
    drift = -s**2 / 2 * (z[:1] @ PRECISION)
    assert torch.allclose((new - z).mean(0), drift[0], atol=5 * s / math.sqrt(len(z)))
    assert torch.allclose((new - z).std(0), torch.full((2,), s), rtol=0.01)


@pytest.mark.parametrize("s, ula, no_ratio, swapped", [
    (0.5, 1.066, 0.52, 0.35), (1.0, 1.333, 0.57, 0.40), (1.5, 2.286, 0.70, 0.53)])
def test_variance_on_a_unit_gaussian(monkeypatch, s, ula, no_ratio, swapped):
    """Langevin: 1 / (1 - s^2/4). MALA: 1, but not without the ratio of the proposals."""
    def variance(sampler):
        torch.manual_seed(0)
        return sampler(unit, torch.randn(60_000, 1), 60, s).z.var().item()

    assert variance(langevin) == pytest.approx(ula, rel=0.02)
    assert ula == pytest.approx(1 / (1 - s**2 / 4), rel=1e-3)
    assert variance(mala) == pytest.approx(1, rel=0.02)
    right = samplers._log_normal
    monkeypatch.setattr(samplers, "_log_normal", lambda noise: torch.zeros(len(noise)))
    assert variance(mala) == pytest.approx(no_ratio, abs=0.03)
    monkeypatch.setattr(samplers, "_log_normal", lambda noise: -right(noise))
    assert variance(mala) == pytest.approx(swapped, abs=0.03)


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_mean_acceptance_of_mala_on_a_unit_gaussian(monkeypatch, s):
    """E min(1, exp(s^2/8 (z^2 - z'^2))) by the midpoint rule."""
    axis = (torch.arange(400) + 0.5) * 0.04 - 8
    z, noise = torch.cartesian_prod(axis, axis).T
    moved = (1 - s**2 / 2) * z + s * noise
    density = (-(z.square() + noise.square()) / 2).exp() / (2 * math.pi) * 0.04**2
    log_ratio = s**2 / 8 * (z.square() - moved.square())
    expected = (density * log_ratio.clamp(max=0).exp()).sum().item()

    def acceptance():
        torch.manual_seed(0)
        return mala(unit, torch.randn(30_000, 1), 20, s).acceptance.mean().item()

    assert acceptance() == pytest.approx(expected, abs=0.005)
    monkeypatch.setattr(samplers, "_log_normal", lambda noise: torch.zeros(len(noise)))
    assert abs(acceptance() - expected) > 0.01


def test_largest_stable_step_of_langevin():
    largest = torch.linalg.eigvalsh(PRECISION)[-1].item()
    torch.manual_seed(0)
    below = langevin(gaussian, torch.randn(100, 2), 200, math.sqrt(3.6 / largest))
    beyond = langevin(gaussian, torch.randn(100, 2), 200, math.sqrt(4.4 / largest))
    assert below.z.abs().max() < 20 < beyond.z.abs().max()
    assert below.acceptance.mean() > 0.2 and beyond.acceptance.max() < 0.1


@pytest.mark.parametrize("name, step", [("rw_mh", 0.5), ("mala", 0.4), ("smmala", 1.0)])
def test_mean_and_covariance_of_a_gaussian(name, step):
    torch.manual_seed(0)
    chains = run(name, gaussian, torch.randn(40_000, 2) + 1, 80, step,
                 lambda z: PRECISION.expand(len(z), 2, 2))
    assert torch.allclose(chains.z.mean(0), torch.zeros(2), atol=0.012)
    assert torch.allclose(torch.cov(chains.z.T), torch.linalg.inv(PRECISION), atol=0.007)
    assert 0.4 < chains.acceptance.mean() < 0.95


def two_modes(z):
    """.7 of a round mode at (-.8, 0), .3 of a long tilted one at (1.1, .6)."""
    a = math.log(0.7 / 0.36) - (z - torch.tensor([-0.8, 0.0])).square().sum(1) / (2 * 0.36)
    tilted = (z - torch.tensor([1.1, 0.6])) @ torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    b = math.log(0.3 / (0.9 * 0.4)) - (tilted / torch.tensor([0.9, 0.4])).square().sum(1) / 2
    return -torch.logaddexp(a, b)


def distance_to_two_modes(name, step, n=40_000, n_steps=150):
    """Total variation over 10 x 10 cells between the density and chains that start in one mode."""
    torch.manual_seed(0)
    start = torch.tensor([-0.8, 0.0]) + 0.6 * torch.randn(n, 2)
    z = run(name, two_modes, start, n_steps, step).z
    axis = torch.linspace(-4, 4, 801)[:-1] + 0.005
    weight = torch.softmax(-two_modes(torch.cartesian_prod(axis, axis)).double(), 0)
    weight = weight.view(10, 80, 10, 80).sum((1, 3))
    inside = (z.abs() < 4).all(1)
    cells = ((z[inside] + 4) / 0.8).long().clamp(0, 9)
    counts = torch.bincount(cells[:, 0] * 10 + cells[:, 1], minlength=100).view(10, 10) / n
    return (counts - weight).abs().sum().item() / 2


@pytest.mark.parametrize("name, step", [("rw_mh", 1.0), ("mala", 0.8), ("smmala", 1.5)])
def test_two_unequal_modes(name, step):
    assert distance_to_two_modes(name, step) < 0.03


def test_two_modes_detect_langevin_and_a_missing_determinant(monkeypatch):
    assert distance_to_two_modes("langevin", 0.8) > 0.06
    monkeypatch.setattr(samplers, "_log_det", lambda chol: torch.zeros(len(chol)))
    assert distance_to_two_modes("smmala", 1.5) > 0.06


@pytest.mark.parametrize("name, target", [("mala", TARGET_GRADIENT), ("rw_mh", TARGET_WALK),
                                          ("smmala", TARGET_GRADIENT), ("langevin", 0.95)])
def test_each_chain_adapts_its_step_size(name, target):
    """Densities of widths 0.01 to 1, all with the same first step size."""
    scale = torch.logspace(-2, 0, 12).unsqueeze(1)

    def density(z):
        return (z / scale).square().sum(1) / 2

    def metric(z):
        return torch.eye(6).expand(len(z), 6, 6)

    torch.manual_seed(0)
    start = scale * torch.randn(12, 6)
    adapted = run(name, density, start, 600, 0.1, metric, target=target)
    fixed = run(name, density, adapted.z, 1000, adapted.step, metric)
    assert abs(fixed.acceptance.mean() - target) < 0.03
    assert (fixed.acceptance - target).abs().max() < 0.13
    assert torch.equal(fixed.step, adapted.step)
    assert adapted.step[-1] / adapted.step[0] == pytest.approx(100, rel=0.4)


@pytest.mark.parametrize("name, nz, error", [
    ("mala", 1, -0.116), ("mala", 2, -0.041), ("mala", 5, 0.0),
    ("smmala", 1, -0.003), ("smmala", 2, -0.005), ("smmala", 5, 0.002)])
def test_bias_of_adaptation_at_a_constant_gain(name, nz, error):
    """Relative error of the stationary variance on N(0, I), against a fixed step size."""
    def eye(z):
        return torch.eye(nz).expand(len(z), nz, nz)

    def variance(z, step, target, n_steps, total=0.0):
        for _ in range(n_steps):
            z, _, step, _ = run(name, unit, z, 1, step, eye, target=target, age=MOST_AGE)
            total += z.square().mean().item() / n_steps
        return total, z, step

    torch.manual_seed(0)
    start = torch.randn(4000, nz)
    _, z, step = variance(start, 1.5, TARGET_GRADIENT, 60)
    adapted, *_ = variance(z, step, TARGET_GRADIENT, 120)
    fixed, *_ = variance(start, step.mean(), None, 120)
    assert adapted - 1 == pytest.approx(error, abs=0.015) and fixed == pytest.approx(1, abs=0.015)


def test_fading_adaptation_is_exact():
    torch.manual_seed(0)
    steps, z, step = [], torch.randn(20_000, 1), 2.0
    for age in range(0, 2000, 200):
        z, _, step, _ = mala(unit, z, 200, step, TARGET_GRADIENT, age)
        steps.append(step)
    wander = [(b / a).log().std().item() for a, b in zip(steps, steps[1:], strict=False)]
    assert wander[-1] < 0.7 * wander[0] and z.var() == pytest.approx(1, rel=0.03)


def test_adapted_manifold_steps_are_at_most_a_full_newton_step():
    """Also of chains far from the mode, which accept every step towards it."""
    torch.manual_seed(0)
    chains = run("smmala", gaussian, torch.full((50, 2), 30.0), 5, 1.0,
                 lambda z: PRECISION.expand(len(z), 2, 2), target=TARGET_GRADIENT)
    assert chains.step.max() <= math.sqrt(2) + 1e-6 and chains.z.abs().max() < 5


@pytest.mark.parametrize("name", ["langevin", "mala", "rw_mh"])
def test_states_may_have_the_shape_of_images(name):
    torch.manual_seed(1)
    z = run(name, unit, torch.randn(4000, 3, 2, 2), 20, 0.3).z
    assert z.shape == (4000, 3, 2, 2)
    # within 4 standard errors; langevin's variance is 1 / (1 - s^2 / 4) = 1.023
    assert z.mean((0, 1)).abs().max() < 4 / math.sqrt(3 * 4000)
    assert z.var().item() == pytest.approx(1.023 if name == "langevin" else 1, abs=0.026)


@pytest.mark.parametrize("name", ALL)
def test_zero_small_and_huge_steps(name):
    torch.manual_seed(0)
    start = torch.randn(200, 2)
    none = run(name, gaussian, start, 0, 0.1)
    assert torch.equal(none.z, start) and none.passes == 0 and none.acceptance.isnan().all()
    still = run(name, gaussian, start, 3, 0.0)
    assert torch.allclose(still.z, start) and (still.acceptance > 0.999).all()
    if name != "langevin":
        huge = run(name, gaussian, start, 3, 1e6)
        assert torch.equal(huge.z, start) and huge.acceptance.max() < 1e-3
        assert run(name, gaussian, start, 3, 1e-3).acceptance.min() > 0.95


@pytest.mark.parametrize("name", ALL)
def test_chains_are_independent(name):
    def ends(others):
        torch.manual_seed(0)
        return run(name, gaussian, torch.cat([torch.ones(2, 2), others]), 20, 0.3, target=0.6)

    a, b = ends(torch.zeros(3, 2)), ends(torch.tensor([[1e20, 1.0], [math.nan, 0.0], [-5.0, 3.0]]))
    for x, y in zip(a[:3], b[:3], strict=True):
        assert torch.equal(x[:2], y[:2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", EXACT)
def test_non_finite_densities_are_rejected(name, bad):
    def half_plane(z):
        return torch.where(z[:, 0] > 0, z[:, 0] * 0 + bad, gaussian(z))

    torch.manual_seed(0)
    inside = run(name, half_plane, torch.tensor([[-0.5, 0.1]]).expand(500, 2), 50, 0.5)
    assert torch.isfinite(inside.z).all() and (inside.z[:, 0] <= 0).all()
    assert torch.isfinite(inside.acceptance).all() and inside.acceptance.mean() < 0.95
    outside = run(name, half_plane, torch.tensor([[0.1, 0.1]]).expand(500, 2), 50, 0.5)
    assert (outside.z[:, 0] <= 0).all()


def test_chains_leave_a_distant_non_finite_start():
    """Its rejected steps do not shrink the step size."""
    def far_side(z):
        return torch.where(z[:, 0] > -1, math.nan, unit(z))

    torch.manual_seed(0)
    start = torch.tensor([[-0.9, 0.0]]).expand(500, 2)
    chains = mala(far_side, start, 100, 0.3, TARGET_GRADIENT)
    assert (chains.z[:, 0] <= -1).float().mean() > 0.95


def test_a_metric_that_is_not_positive_definite_is_rejected():
    def metric(z):
        return torch.where(z[:, 0] > 0.5, -1.0, 1.0)[:, None, None] * torch.eye(2)

    torch.manual_seed(0)
    z = smmala(with_metric(unit, metric), torch.zeros(500, 2), 50).z
    assert torch.isfinite(z).all() and (z[:, 0] <= 0.5).all()


@pytest.mark.parametrize("name, each", [("langevin", 2), ("mala", 2), ("rw_mh", 1), ("smmala", 4)])
def test_number_of_network_passes(name, each):
    """An evaluation counts as one, its gradient as one, each of three tangents as one."""
    calls = []

    def density(z):
        calls.append(1)
        return unit(z)

    chains = run(name, density, torch.zeros(5, 3), 7, 0.1)
    assert len(calls) == 8 and chains.passes == 8 * each


@pytest.mark.parametrize("name", ALL)
def test_callback_after_each_step(name):
    seen = []
    torch.manual_seed(0)
    chains = run(name, gaussian, torch.ones(3, 2), 4, 0.1, callback=lambda *now: seen.append(now))
    assert [state[0] for state in seen] == [0, 1, 2, 3] and torch.equal(seen[-1][1], chains.z)
    assert torch.allclose(torch.stack([state[3] for state in seen]).mean(0), chains.acceptance)
    for _, z, energy, _ in seen:
        assert torch.allclose(energy, gaussian(z)) and not (z.requires_grad or energy.requires_grad)
