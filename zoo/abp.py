"""Alternating back-propagation (abp.py), the model that the others are compared with."""
import torch

from abp import ABP, Config
from evaluation.holdout import infer
from inference.posterior import frozen
from zoo.metrics import evidence, likeliest_sigma
from zoo.networks import n_parameters

FULL = 128                       # image side for which the defaults of abp.Config were chosen


class Alternating:
    """A generator trained by ABP, warm start: config (abp.Config), data (n, 3, S, S) in [-1, 1]."""

    def __init__(self, config, data):
        model = ABP(config, data, "warm")
        for _ in model:
            pass
        self.config, self.net, self.z = config, frozen(model.net), model.z
        self.sigma, self.n_parameters = config.mse_sigma, n_parameters(model.net)

    @torch.no_grad()
    def sample(self, n):
        """g(z), z ~ N(0, prior_sigma^2 I), without the noise: (n, 3, S, S)."""
        return self.net(self.config.prior_sigma * torch.randn(n, self.config.nz))

    @torch.no_grad()
    def reconstruct(self, x):
        """g at the best mode of each posterior: (n, 3, S, S) -> the same."""
        return self.net(infer(self.net, x, self.config))

    def log_prob(self, x):
        """Estimate of log p(x; self.sigma) in nats by quadrature over z: -> (n,) float64."""
        z = infer(self.net, x, self.config)
        return evidence(self.net, x, self.sigma, z, self.config.prior_sigma).log_p


def settings(side, **options):
    """abp.Config for images of another side, with the ratio sigma^2 / D of the defaults at FULL."""
    scale = side / FULL
    return Config(**{"img_size": side, "start": "warm", "mse_sigma": scale * Config.mse_sigma,
                     "sigma_start": scale * Config.sigma_start, "seed": 0} | options)


def animals(data):
    """ABP with its default number of epochs, then the sigma of maximum likelihood."""
    model = Alternating(settings(data.shape[-1]), data)
    model.sigma = likeliest_sigma(model.net, data, model.z)
    return model
