"""Simulation-based calibration of samplers on the posterior of a generator."""
import pytest
import torch

from inference import samplers
from inference.posterior import Posterior, frozen
from inference.samplers import TARGET_GRADIENT, langevin, mala, rw_mh, smmala
from models import GenNet

BOUND = 24.3          # chi^2 with 7 degrees of freedom exceeds it once in a thousand


def chi_square_of_ranks(sampler, noise_scale=1.0, n=300, n_draws=63, bins=8):
    """Simulation-based calibration (Talts et al. 2018).

    z is drawn from the prior, an image from the generator and its noise; the rank of z among
    posterior draws is uniform. Returns chi^2 against the uniform, the larger of both coordinates.
    sampler(posterior, z) -> draws of chains that start at the true z, which is one exact draw.
    """
    torch.manual_seed(1)
    net, sigma = GenNet(2, 16, 32, 2), 0.7
    with torch.no_grad():
        z = torch.randn(n, 2)
        images = net(z)
        images += noise_scale * sigma * torch.randn_like(images)
    draws = sampler(Posterior(frozen(net), images, sigma), z, n_draws)
    ranks = (draws < z).sum(0)                                           # (n, 2), 0 .. n_draws
    bin_of_rank = ranks * bins // (n_draws + 1)
    counts = torch.stack([torch.bincount(column, minlength=bins) for column in bin_of_rank.T])
    return ((counts - n / bins).square() / (n / bins)).sum(1).max().item()


def collect(sampler, density, z, n_draws, thin, step, adapt=False):
    if adapt:
        z, _, step, _ = sampler(density, z, 100, step, TARGET_GRADIENT)
    draws = []
    for _ in range(n_draws):
        z = sampler(density, z, thin, step).z
        draws.append(z)
    return torch.stack(draws)


CALIBRATED = {
    "mala": lambda p, z, n: collect(mala, p.energy, z, n, 10, 0.1, adapt=True),
    "smmala": lambda p, z, n: collect(smmala, p.local, z, n, 4, 1.0),
    "rw_mh": lambda p, z, n: collect(rw_mh, p.energy, z, n, 20, 0.15),
}


@pytest.mark.parametrize("name", CALIBRATED)
def test_posterior_draws_are_calibrated(name):
    assert chi_square_of_ranks(CALIBRATED[name]) < BOUND


@pytest.mark.parametrize("name", ["mala", "smmala"])
def test_calibration_detects_images_with_noise_of_the_wrong_scale(name):
    assert chi_square_of_ranks(CALIBRATED[name], noise_scale=1.5) > 2 * BOUND


def test_calibration_detects_langevin_steps_with_noise_of_the_wrong_scale(monkeypatch):
    def plain(p, z, n):
        return collect(langevin, p.energy, z, n, 10, 0.15)

    assert chi_square_of_ranks(plain) < BOUND
    propose = samplers._Langevin.propose
    monkeypatch.setattr(samplers._Langevin, "propose", lambda self, state, noise, s:
                        propose(self, state, 4 * noise, s))
    assert chi_square_of_ranks(plain) > 2 * BOUND
