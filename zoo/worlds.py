"""Data whose truth is known: mixtures with an exact density, and scikit-learn's digits."""
import math

import numpy as np
import torch
from sklearn.datasets import load_digits

N_TRAIN = 1400                   # of the 1797 digits


class Mixture:
    """K Gaussians of equal weight and of covariance sd^2 I, about centres (K, d); float32.

    The same object is a world to learn, the truth to compare with, and an energy for samplers.
    """
    exact = True

    def __init__(self, centres, sd):
        self.centres, self.sd = torch.as_tensor(centres, dtype=torch.float32), sd

    def sample(self, n, generator=None):
        """n points (n, d)."""
        which = torch.randint(len(self.centres), (n,), generator=generator)
        return self.centres[which] + self.sd * torch.randn(n, self.centres.shape[1], generator=generator)

    def log_prob(self, x):
        """log p(x) in nats: (n, d) -> (n,)."""
        square = (x[:, None] - self.centres.to(x.dtype)).square().sum(2)                       # (n, K)
        d = self.centres.shape[1]
        return (torch.logsumexp(-square / (2 * self.sd**2), 1) - math.log(len(self.centres))
                - d / 2 * math.log(2 * math.pi * self.sd**2))

    def energy(self, x):
        """-log p(x): (n, d) -> (n,)."""
        return -self.log_prob(x)


def ring(n_modes=8, radius=2.0, sd=0.1):
    """Gaussians in a circle (n_modes centres in the plane)."""
    angle = 2 * math.pi / n_modes * torch.arange(n_modes)
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], 1), sd)


def grid(side=5, spacing=1.5, sd=0.1):
    """Gaussians in a square of side x side, about 0."""
    axis = spacing * (torch.arange(side) - (side - 1) / 2)
    return Mixture(torch.cartesian_prod(axis, axis), sd)


def digits():
    """scikit-learn's 8 x 8 digits, shuffled once and for all: (train, test), each (images, classes).

    images (1400 or 397, 1, 8, 8) float32, the 17 levels 0, 1/16, .. 1; classes (n,) int64.
    """
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order].astype(np.float32) / 16).unsqueeze(1)
    classes = torch.from_numpy(data.target[order])
    return (images[:N_TRAIN], classes[:N_TRAIN]), (images[N_TRAIN:], classes[N_TRAIN:])


class Patterns:
    """K binary patterns, all as likely and all different, each a row of -1 and 1: (K, d) float32."""
    exact = True

    def __init__(self, patterns):
        self.patterns = patterns

    def sample(self, n, generator=None):
        """n patterns (n, d)."""
        return self.patterns[torch.randint(len(self.patterns), (n,), generator=generator)]

    def counts(self, x):
        """How many of the items x (n, d) are each pattern -> (K,), int64; the rest are none."""
        return (x[:, None] == self.patterns).all(2).sum(0)

    def log_prob(self, x):
        """log p(x) in nats, -inf off the patterns: (n, d) -> (n,)."""
        known = (x[:, None] == self.patterns).all(2).any(1)
        return torch.where(known, -math.log(len(self.patterns)), -math.inf)


def bars_and_stripes(side=4):
    """Squares with whole rows, or whole columns, of 1 on -1: 2^(side + 1) - 2 patterns of side^2 bits."""
    lines = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * side)                       # (2^side, side)
    rows = lines[:, :, None].expand(-1, side, side)
    return Patterns(torch.cat([rows, rows.mT[1:-1]]).flatten(1))        # all -1 and all 1 are rows already
