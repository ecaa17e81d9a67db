"""Alternating back-propagation itself (abp.py), as a member of the zoo: what the others are compared with."""
import torch

from abp import ABP, Config
from evaluation.holdout import infer
from inference.posterior import frozen
from zoo.metrics import evidence, likeliest_sigma
from zoo.networks import n_parameters

FULL = 128                       # side for which the defaults of abp.py were chosen


class Alternating:
    """A generator that ABP trained on data (n, 3, S, S) in [-1, 1], warm start, with config (abp.Config)."""
    exact = True

    def __init__(self, config, data):
        model = ABP(config, data, "warm")
        for _ in model.train():
            pass
        self.config, self.net, self.z, self.sigma = config, frozen(model.net), model.z, config.mse_sigma
        self.n_parameters = n_parameters(self.net)

    @torch.no_grad()
    def sample(self, n):
        """g(z), z ~ N(0, I), without the noise: (n, 3, S, S)."""
        return self.net(self.config.prior_sigma * torch.randn(n, self.config.nz))

    @torch.no_grad()
    def reconstruct(self, x):
        """g at the best mode of each posterior: (n, 3, S, S) -> the same."""
        return self.net(infer(self.net, x, self.config))

    def log_prob(self, x):
        """log p(x) in nats by adaptive quadrature over the latent plane, at self.sigma: -> (n,) float64."""
        z = infer(self.net, x, self.config)
        return evidence(self.net, x, self.sigma, z, self.config.prior_sigma).log_p


def settings(side, seed=0, **options):
    """abp.Config for pictures of another side, with as much noise on a picture, sigma^2 / D, as at FULL."""
    return Config(**{"img_size": side, "start": "warm", "mse_sigma": Config.mse_sigma * side / FULL,
                     "sigma_start": Config.sigma_start * side / FULL, "device": "cpu", "precision": "fp32",
                     "seed": seed} | options)


def animals(data, seed=0):
    """ABP with its default number of epochs; afterwards sigma is the likeliest one for the data."""
    model = Alternating(settings(data.shape[-1], seed), data)
    model.sigma = likeliest_sigma(model.net, data, model.z)
    return model
