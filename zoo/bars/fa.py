"""What factor analysis is held to: the equations of its optimum; known factors found again; the digits."""
import math

import torch

from evaluation.linear import Linear, fit_fa, fit_pca, log_normal
from zoo.core import Check
from zoo.datasets import digits
from zoo.fa import Factors

DIMENSIONS = range(2, 9)           # tried where the true number of factors is to be found
WORLD, SHAPE = 5, (1, 8, 8)        # true factors, and the shape of an item, of the world with known factors
LEVEL = 1 / 16                     # between two levels of a digit's pixel


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """The density against a dense one; the fits against the theory of their maximum."""
    x = digits()[0][0][:40]                         # fewer images than pixels: sigma^2 has many empty axes
    model, centred = fit_pca(x, 2), x.double().flatten(1) - x.double().flatten(1).mean(0)
    noise = torch.linspace(0.1, 2.0, 64, dtype=torch.float64)
    covariance = model.weights.T @ model.weights + noise.diag()
    normal = torch.distributions.MultivariateNormal(model.mean, covariance)
    values = normal.log_prob(x.double().flatten(1))
    ours, flat = (log_normal(x.double().flatten(1), model.mean, model.weights, psi)
                  for psi in (noise, noise.mean()))
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / len(x)).flip(0)
    averaged_wrongly = eigenvalues[2:].sum() / (len(x) - 2)             # over the axes that the images span
    stretch = torch.logspace(-1, 1, 64).view(1, 1, 8, 8)
    return [
        Check("density by Woodbury against a dense covariance: largest difference [nats]",
              (ours - values).abs().max().item(), hi=1e-8, source="identity",
              controls={"one noise for all": (flat - values).abs().max().item()}),
        Check("pPCA, d = 2, n < D: |d log p / d log sigma^2| at the fit [nats]",
              _slope(model, x, model.noise), hi=1e-8, source="a maximum; Tipping and Bishop 1999, Eq. 8",
              controls={"discarded variance averaged over n - d axes": _slope(model, x, averaged_wrongly)}),
        Check("pPCA, d = 2: log p of the fit less that of the theory [nats]",
              model.log_density(x).mean().item() - _greatest(eigenvalues, 2), -1e-8, 1e-8,
              "maximum by the eigenvalues alone; Tipping and Bishop 1999, Sec. 3.2",
              {"axes not shrunk by sigma^2": _unshrunk(model, x, eigenvalues) - _greatest(eigenvalues, 2)}),
        Check("FA, units of the pixels changed: log p off from log p - sum log a [nats]",
              _off_when_stretched(fit_fa, stretch), hi=1e-3, source="FA follows the data's units, pPCA not",
              controls={"pPCA": _off_when_stretched(fit_pca, stretch)}),
    ]


def _slope(model, x, noise):
    """|d/d log sigma^2 of the mean log p| at sigma^2 = noise, with the axes W as pPCA fits them to it."""
    lengths = model.weights.square().sum(1, keepdim=True) + model.noise            # the eigenvalues
    log_noise = noise.log().requires_grad_(True)
    weights = (lengths - log_noise.exp()).sqrt() * model.encoder
    value = log_normal(x.double().flatten(1), model.mean, weights, log_noise.exp()).mean()
    return torch.autograd.grad(value, log_noise)[0].abs().item()


def _greatest(eigenvalues, d):
    """The greatest mean log p of pPCA: -1/2 (sum_{k<=d} log l_k + (D - d) log sigma^2 + D log 2 pi + D)."""
    n_values, noise = len(eigenvalues), eigenvalues[d:].mean()
    return -(eigenvalues[:d].log().sum() + (n_values - d) * noise.log()
             + n_values * (math.log(2 * math.pi) + 1)).item() / 2


def _unshrunk(model, x, eigenvalues):
    weights = eigenvalues[:len(model.weights), None].sqrt() * model.encoder
    return log_normal(x.double().flatten(1), model.mean, weights, model.noise).mean().item()


def _off_when_stretched(fit, stretch):
    """How far log p of a model fitted to a x is from log p of one fitted to x, less sum log a; nats."""
    x = world(0).draw(500)
    plain, stretched = (fit(data, WORLD).log_density(data).mean() for data in (x, stretch.double() * x))
    return (stretched + stretch.double().log().sum() - plain).abs().item()


# ------------------------------------------------------------------------------------------------------ bench

def world(seed):
    """A factor model to be found again: WORLD factors, and noise of variance .1 to 10, value by value."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, kind=torch.randn):
        return kind(*shape, generator=generator, dtype=torch.float64)

    weights, noise = draw(WORLD, math.prod(SHAPE)), 10 ** (2 * draw(math.prod(SHAPE), kind=torch.rand) - 1)
    return Factors(Linear("FA", draw(math.prod(SHAPE)), weights, noise, weights, weights), SHAPE)


def bench(seed=0):
    """Known factors are found again; the digits give the figures with which other models are compared."""
    return [*_found_again(seed), *_on_digits()]


def _found_again(seed):
    truth = world(seed)
    train, test = truth.draw(1000), truth.draw(1000)
    best = truth.log_prob(test).mean().item()
    models = {fit: [fit(train, d) for d in DIMENSIONS] for fit in (fit_fa, fit_pca)}
    held_out = {fit: [m.log_density(test).mean().item() for m in fits] for fit, fits in models.items()}
    seen = [m.log_density(train).mean().item() for m in models[fit_fa]]
    right = DIMENSIONS.index(WORLD)
    # n log p of the fit falls short of the truth's by chi^2 / 2 with as many degrees as there are parameters
    short = Factors(models[fit_fa][right], SHAPE).n_parameters / (2 * len(train))

    def chosen(values):
        return DIMENSIONS[values.index(max(values))]

    psi, true = (model.noise for model in (models[fit_fa][right], truth.linear))
    return [
        Check("FA: factors chosen by held-out log p (5 are true)", chosen(held_out[fit_fa]), WORLD, WORLD,
              "the world", {"chosen by training log p": chosen(seen), "pPCA": chosen(held_out[fit_pca])}),
        Check("FA: held-out log p less the truth's [nats]", held_out[fit_fa][right] - best, -2 * short, 0.0,
              "at most twice the loss of an efficient estimate, parameters / 2n",
              {"pPCA": held_out[fit_pca][right] - best}),
        Check("FA: median error of an own noise psi [share]", (psi / true - 1).abs().median().item(), hi=0.05,
              source="its standard error with 1000 items is about sqrt(2 / n) = .045, the median .67 of that",
              controls={"pPCA": (models[fit_pca][right].noise / true - 1).abs().median().item()}),
    ]


def _on_digits():
    """The digits are one fixed set, and the fits closed forms: the same figures for every seed."""
    (train, _), (test, _) = digits()
    two, ten = fit_pca(train, 2), fit_pca(train, 10)
    none = Linear("none", train.double().flatten(1).mean(0), torch.zeros(0, 64, dtype=torch.float64),
                  train.double().flatten(1).var(0, correction=0).mean(), None, None)
    source = "measured apart, with a dense covariance"
    return [
        Check("digits, pPCA, d = 2: training log p [nats]", two.log_density(train).mean().item(),
              0.1348, 0.1358, source, {"isotropic": none.log_density(train).mean().item()}),
        Check("digits, pPCA, d = 2: sigma^2", two.noise.item(), 0.053895, 0.053905, source,
              {"isotropic": none.noise.item()}),
        Check("digits, pPCA, d = 2: test log p [nats]", two.log_density(test).mean().item(), -0.591, -0.589,
              source, {"isotropic": none.log_density(test).mean().item()}),
        Check("digits, pPCA, d = 10: test log p [nats]", ten.log_density(test).mean().item(), 16.375, 16.385,
              source, {"d = 2": two.log_density(test).mean().item()}),
    ]
