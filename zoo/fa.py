"""Factor analysis: the linear model that a generator network generalises.

    x = mu + W' z + eps,   z ~ N(0, I_d),   eps ~ N(0, diag(psi));   p(x) = N(mu, W'W + diag(psi))

Maximum likelihood by expectation maximisation (Rubin and Thayer 1982). The fit and the density are
those of evaluation/linear.py; here the model also draws samples.
"""
import torch

from evaluation.linear import fit_fa


class Factors:
    """A fitted linear model (evaluation.linear.Linear) of items of the given shape."""

    def __init__(self, linear, shape):
        self.linear, self.shape = linear, shape
        parts = linear.mean, linear.weights, linear.noise
        self.n_parameters = sum(part.numel() for part in parts)

    def sample(self, n):
        """E[x | z] = mu + W' z, z ~ N(0, I), without the noise: (n, *shape) float64."""
        z = torch.randn(n, len(self.linear.weights), dtype=torch.float64)
        return (self.linear.mean + z @ self.linear.weights).view(n, *self.shape)

    def log_prob(self, x):
        """log p(x) in nats, exact: (n, *shape) -> (n,) float64."""
        return self.linear.log_density(x)

    def reconstruct(self, x):
        """mu + W' E[z | x]: (n, *shape) -> the same."""
        return self.linear.reconstruct(x)


def animals(data):
    """Factor analysis of images (n, 3, S, S) with 2 factors, as many as ABP has -> Factors."""
    return Factors(fit_fa(data, 2), data.shape[1:])
