"""Simulation-based calibration (Talts et al. 2018) of samplers on the posterior of a generator."""
import pytest
import torch

from inference import samplers
from inference.posterior import Posterior, frozen
from inference.samplers import TARGET_GRADIENT, langevin, mala, rw_mh, smmala
from models import GenNet

BOUND = 24.3          # chi^2 with 7 degrees of freedom exceeds it once in a thousand


def chi_square_of_ranks(sampler, noise_scale=1.0, n=300, n_draws=63, bins=8):
    """chi^2 of the ranks of true latents among posterior draws, the larger of both coordinates.

    The ranks are uniform. Chains start at the true z, which is one exact draw of the posterior.
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


def collect(sampler, density, z, n_draws, thin, step):
    if sampler is mala:
        z, _, step, _ = sampler(density, z, 100, step, TARGET_GRADIENT)
    draws = []
    for _ in range(n_draws):
        z = sampler(density, z, thin, step).z
        draws.append(z)
    return torch.stack(draws)


CALIBRATED = {
    "mala": lambda p, z, n: collect(mala, p.energy, z, n, 10, 0.1),
    "smmala": lambda p, z, n: collect(smmala, p.local, z, n, 4, 1.0),
    "langevin": lambda p, z, n: collect(langevin, p.energy, z, n, 10, 0.15),
    "rw_mh": lambda p, z, n: collect(rw_mh, p.energy, z, n, 20, 0.15),
}


@pytest.mark.parametrize("name", CALIBRATED)
def test_posterior_draws_are_calibrated(name):
    assert chi_square_of_ranks(CALIBRATED[name]) < BOUND


def test_calibration_detects_the_wrong_noise(monkeypatch):
    """In the images and in the Langevin steps."""
    assert chi_square_of_ranks(CALIBRATED["smmala"], 1.5) > 2 * BOUND
    propose = samplers._Langevin.propose
    monkeypatch.setattr(samplers._Langevin, "propose", lambda self, state, noise, s:
                        propose(self, state, 4 * noise, s))
    assert chi_square_of_ranks(CALIBRATED["langevin"]) > 2 * BOUND
