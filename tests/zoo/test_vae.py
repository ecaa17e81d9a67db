"""VAE: bounds in closed form; trainings against PCA, quadrature and ABP."""
import dataclasses
import math

import pytest
import torch
from torch import nn

from data.draw import draw_set
from evaluation.linear import fit_pca, log_normal
from inference.measures import to_side
from runs.files import ROOT, set_seed
from utils import load_img_tensors, to_tensor
from zoo import abp
from zoo.datasets import digits
from zoo.metrics import dense
from zoo.networks import mlp
from zoo.vae import VAE, fit, fit_images, image_vae

SIGMA = 0.5
SHAPE = (1, 8, 8)


def decoder(layers):
    return nn.Sequential(layers, nn.Unflatten(1, SHAPE))


@pytest.fixture(scope="module")
def linear():
    """A linear decoder with orthogonal columns, whose posterior N(m*, diag s*^2) is known.

    (x (200, *SHAPE), log p(x) (200,), precision 1 / s*^2 (2,), a function that makes a VAE whose q
    has mean m* + shift and std widen s*)
    """
    random = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(64, 2, generator=random))[0]
    columns, centre = axes * torch.tensor([2.0, 0.7]), torch.randn(64, generator=random)
    precision = columns.square().sum(0) / SIGMA**2 + 1
    z = torch.randn(200, 2, generator=random)
    x = z @ columns.T + centre + SIGMA * torch.randn(200, 64, generator=random)
    log_p = log_normal(x.double(), centre.double(), columns.T.double(), torch.tensor(SIGMA**2))

    def model(shift=0.0, widen=1.0):
        encode, decode = nn.Linear(64, 4), nn.Linear(2, 64)
        with torch.no_grad():
            decode.weight.copy_(columns)
            decode.bias.copy_(centre)
            read = (columns / SIGMA**2 / precision).T
            encode.weight.copy_(torch.cat([read, torch.zeros(2, 64)]))
            encode.bias.copy_(torch.cat([shift - read @ centre, (widen / precision.sqrt()).log()]))
        return VAE(nn.Sequential(nn.Flatten(), encode), decoder(decode), SIGMA)

    torch.manual_seed(0)
    return x.view(-1, *SHAPE), log_p, precision, model


def test_bounds_equal_log_p_at_the_posterior(linear):
    x, log_p, _, model = linear
    for bound in model().bounds(x, 128):
        assert (bound - log_p).abs().max() < 0.01


@torch.no_grad()
def test_the_elbo_falls_short_by_the_kl_to_the_posterior(linear):
    """Kingma and Welling 2014, Eq. 1; IWAE is tighter, Burda et al. 2016, Theorem 1."""
    x, log_p, precision, model = linear
    shift, widen = 0.2, 1.5
    kl = 2 * math.log(1 / widen) + widen**2 - 1 + shift**2 * precision.sum().item() / 2
    elbo = torch.stack([model(shift, widen).elbo(x) for _ in range(200)]).mean().item()
    assert elbo == pytest.approx(log_p.mean().item() - kl, abs=0.02)
    elbo, iwae = (bound.mean() for bound in model(shift, widen).bounds(x))
    assert elbo == pytest.approx(log_p.mean().item() - kl, abs=0.02)
    assert -0.01 * kl < log_p.mean() - iwae < 0.1 * kl


def test_quadrature_finds_log_p(linear):
    x, log_p, _, model = linear
    assert (model().log_prob(x[:20]) - log_p[:20]).abs().max() < 0.01
    assert (dense(model().decoder, x, SIGMA) - log_p).abs().max() < 0.01


@pytest.mark.slow
def test_a_linear_vae_reaches_pca():
    """Lucas et al. 2019: the maximum of the ELBO is that of PCA, where the bound is tight."""
    set_seed(0)
    x = digits()[0][0]
    best = fit_pca(x, 2)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model = fit(VAE(encoder, decoder(nn.Linear(2, 64))), x, 4000, 1e-2)
    layer = model.decoder[0]
    log_p = log_normal(x.double().flatten(1), layer.bias.double(), layer.weight.T.double(),
                       torch.tensor(model.sigma**2)).mean().item()
    assert -0.05 < log_p - best.log_density(x).mean().item() < 1e-3
    assert log_p - model.bounds(x, 128)[0].mean().item() == pytest.approx(0, abs=0.02)
    assert model.sigma**2 / best.noise.item() == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_a_nonlinear_vae_gains_on_pca_and_its_bounds_hold():
    set_seed(0)
    (x, _), (test, _) = digits()
    encoder = nn.Sequential(nn.Flatten(), mlp(64, 128, 128, 4, activation=nn.SiLU))
    model = VAE(encoder, decoder(mlp(2, 128, 128, 64, activation=nn.SiLU)))
    fit(model, x, 5000, 2e-3)
    log_p = dense(model.decoder, test, model.sigma, cells=361)
    assert log_p.mean() > 21 > fit_pca(x, 2).log_density(test).mean() + 20
    elbo, iwae = model.bounds(test)
    assert (elbo - log_p).max() < 0.05
    assert 0.25 < (iwae - elbo).mean() / (log_p - elbo).mean() < 1
    some = test[:60]
    for values in (dense(model.decoder, some, model.sigma, cells=721), model.log_prob(some),
                   dense(model.decoder, some, model.sigma, reach=9.0, cells=541)):
        assert (values - log_p[:60]).abs().max() < 0.05


@pytest.mark.slow
def test_abp_and_vae_with_the_same_generator():
    """The same sigma and number of steps; ABP as in the paper, with inference before every step."""
    side = 16
    set_seed(0)
    train, _ = load_img_tensors(ROOT / "data" / "drawn", side)
    new = to_side(torch.stack([to_tensor(face) for _, face in draw_set(48, 64, seed=1)]), side)
    config = abp.settings(side, width=8, hidden=64, n_epochs=1920, learn_num_steps=1, z_noise=0.0,
                          langevin_num_steps=3)
    ours, vae = abp.Alternating(config, train), fit_images(image_vae(config), train, config)
    short = abp.Alternating(dataclasses.replace(config, n_epochs=192), train)
    mse = {model: (model.reconstruct(train) - train).square().mean()
           for model in (ours, vae, short)}
    assert mse[ours] < 3 * mse[vae] < mse[short]
    gap = []
    for x, margin in ((train, 0.5), (new, 2.0)):
        log_p = vae.log_prob(x)
        assert (ours.log_prob(x) - log_p).mean() > -margin > (short.log_prob(x) - log_p).mean()
        gap.append(log_p - vae.bounds(x)[0])
        assert gap[-1].min() > -0.05
    assert gap[1].mean() > 2 * gap[0].mean()             # the encoder knows the training faces best
