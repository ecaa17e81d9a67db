"""Factor analysis finds known factors; its fits are tested in evaluation/test_linear.py."""
import math

import pytest
import torch

from evaluation.linear import Linear, fit_fa, fit_pca
from zoo.datasets import digits
from zoo.fa import Factors, animals

D, SHAPE = 5, (1, 8, 8)            # true factors, shape of an item
N_VALUES = math.prod(SHAPE)


def world(seed=0):
    """A factor model with D factors and noise of variance .1 to 10, different for each value."""
    random = torch.Generator().manual_seed(seed)
    draws = torch.randn(D + 1, N_VALUES, generator=random, dtype=torch.float64)
    weights, mean = draws[:D], draws[D]
    noise = 10 ** (2 * torch.rand(N_VALUES, generator=random, dtype=torch.float64) - 1)
    return Factors(Linear("FA", mean, weights, noise, weights, weights), SHAPE)


def draw(model, n):
    """n items (n, *SHAPE) of a factor model, with their noise."""
    noise = model.linear.noise.sqrt() * torch.randn(n, N_VALUES, dtype=torch.float64)
    return model.sample(n) + noise.view(n, *SHAPE)


@pytest.fixture
def data():
    torch.manual_seed(0)
    return draw(world(), 1000), draw(world(), 1000)


def test_factors_are_found_again(data):
    train, test = data
    fits = {d: fit_fa(train, d) for d in (D - 1, D, D + 1)}
    heldout = {d: fit.log_density(test).mean().item() for d, fit in fits.items()}
    assert max(heldout, key=heldout.get) == D
    seen = {d: fit.log_density(train).mean().item() for d, fit in fits.items()}
    assert max(seen, key=seen.get) == D + 1              # training log p chooses too many
    # n log p of an efficient estimate is short of the truth by chi^2 / 2 with n_parameters degrees
    short = Factors(fits[D], SHAPE).n_parameters / (2 * len(train))
    best = world().log_prob(test).mean().item()
    assert -2 * short < heldout[D] - best < 0
    assert fit_pca(train, D).log_density(test).mean() < best - 2 * short
    # the standard error of psi is about sqrt(2 / n) = .045, the median error .67 of that
    assert (fits[D].noise / world().linear.noise - 1).abs().median() < 0.05


@pytest.mark.parametrize("fit, invariant", [(fit_fa, True), (fit_pca, False)])
def test_only_fa_follows_the_units_of_the_values(data, fit, invariant):
    x, scale = data[0][:500], torch.logspace(-1, 1, N_VALUES, dtype=torch.float64).view(1, *SHAPE)
    plain, scaled = (fit(y, D).log_density(y).mean() for y in (x, scale * x))
    assert ((scaled + scale.log().sum() - plain).abs() < 1e-3) == invariant


def test_samples_have_the_moments_of_the_model():
    model = animals(digits()[0][0])
    torch.manual_seed(0)
    x = model.sample(50_000).flatten(1)
    assert torch.allclose(x.mean(0), model.linear.mean, atol=0.01)
    weights = model.linear.weights
    assert torch.allclose(x.T.cov(), weights.T @ weights, atol=0.01)
