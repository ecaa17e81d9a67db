"""Probabilistic PCA and factor analysis: the linear models that a generator network generalises.

    x = mu + W' z + eps,   z ~ N(0, I_d),   eps ~ N(0, Psi);   p(x) = N(mu, W'W + Psi)

    pPCA   Psi = sigma^2 I, maximum likelihood in closed form     Tipping and Bishop 1999, Eqs. 7 and 8
    FA     Psi = diag(psi), by expectation maximisation           Rubin and Thayer 1982

The fits and the density are those of evaluation/linear.py. Here they draw samples, and are held to bars.
"""
import torch

from evaluation.linear import fit_fa


class Factors:
    """A fitted linear model (evaluation.linear.Linear) as the zoo sees it."""
    exact = True

    def __init__(self, linear, shape):
        self.linear, self.shape = linear, shape

    @property
    def n_parameters(self):
        """mu, W and the noise; W counts whole, though a rotation of z leaves p(x) as it is."""
        return self.linear.mean.numel() + self.linear.weights.numel() + self.linear.noise.numel()

    def sample(self, n):
        """E[x | z] = mu + W' z, z ~ N(0, I), without the noise, as a generator shows it: (n, *shape)."""
        z = torch.randn(n, len(self.linear.weights), dtype=torch.float64)
        return (self.linear.mean + z @ self.linear.weights).view(n, *self.shape)

    def draw(self, n):
        """Items x ~ p(x), with their noise: (n, *shape) float64."""
        noise = self.linear.noise.sqrt() * torch.randn(n, self.linear.mean.numel(), dtype=torch.float64)
        return self.sample(n) + noise.view(n, *self.shape)

    def log_prob(self, x):
        """log p(x) in nats, (n, *shape) -> (n,) float64."""
        return self.linear.log_density(x)

    def reconstruct(self, x):
        """(n, *shape) -> the same, from the codes of x."""
        return self.linear.reconstruct(x)


# ---------------------------------------------------------------------------------------------------- animals

def animals(data, seed=0):
    """Factor analysis with 2 factors, as many as the latents of ABP: data (n, 3, S, S) -> Factors."""
    return Factors(fit_fa(data, 2), data.shape[1:])
