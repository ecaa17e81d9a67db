"""Factor analysis on a model with known factors; see also evaluation/test_linear.py."""
import math

import torch

from evaluation.linear import Linear, fit_fa, fit_pca
from zoo.datasets import digits
from zoo.fa import Factors, animals

D, SHAPE = 5, (1, 8, 8)            # true factors, shape of an item
N_VALUES = math.prod(SHAPE)


def world():
    """A factor model with D factors and noise of variance .1 to 10, different for each value."""
    random = torch.Generator().manual_seed(0)
    draws = torch.randn(D + 1, N_VALUES, generator=random, dtype=torch.float64)
    weights, mean = draws[:D], draws[D]
    noise = 10 ** (2 * torch.rand(N_VALUES, generator=random, dtype=torch.float64) - 1)
    return Factors(Linear("FA", mean, weights, noise, weights, weights), SHAPE)


def draw(model, n):
    """n items (n, *SHAPE) of a factor model, with their noise."""
    noise = model.linear.noise.sqrt() * torch.randn(n, N_VALUES, dtype=torch.float64)
    return model.sample(n) + noise.view(n, *SHAPE)


def test_the_number_of_factors_and_the_noise_are_found():
    torch.manual_seed(0)
    train, test = draw(world(), 1000), draw(world(), 1000)
    fits = {d: fit_fa(train, d) for d in (D - 1, D, D + 1)}
    heldout = {d: fit.log_density(test).mean().item() for d, fit in fits.items()}
    assert max(heldout, key=heldout.get) == D
    seen = {d: fit.log_density(train).mean().item() for d, fit in fits.items()}
    assert max(seen, key=seen.get) == D + 1              # training log p overfits
    # n log p of an efficient estimate is short of the truth by chi^2 / 2 with n_parameters degrees
    short = Factors(fits[D], SHAPE).n_parameters / (2 * len(train))
    best = world().log_prob(test).mean().item()
    assert -2 * short < heldout[D] - best < 0
    assert fit_pca(train, D).log_density(test).mean() < best - 2 * short
    # the standard error of psi is about sqrt(2 / n) = .045, the median error .67 of that
    assert (fits[D].noise / world().linear.noise - 1).abs().median() < 0.05


def test_samples_have_the_moments_of_the_model():
    model = animals(digits()[0][0])
    torch.manual_seed(0)
    x = model.sample(50_000).flatten(1)
    assert torch.allclose(x.mean(0), model.linear.mean, atol=0.01)
    weights = model.linear.weights
    assert torch.allclose(x.T.cov(), weights.T @ weights, atol=0.01)
