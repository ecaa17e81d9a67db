"""Data with a known density: mixtures, patterns, Markov chains; and scikit-learn's digits."""
import math

import numpy as np
import torch
from sklearn.datasets import load_digits

N_TRAIN = 1400                   # of the 1797 digits


class Mixture:
    """K Gaussians of equal weight, covariance sd^2 I and centres (K, d); float32."""

    def __init__(self, centres, sd):
        self.centres, self.sd = torch.as_tensor(centres, dtype=torch.float32), sd

    def sample(self, n, generator=None):
        """n points (n, d)."""
        which = torch.randint(len(self.centres), (n,), generator=generator)
        noise = torch.randn(n, self.centres.shape[1], generator=generator)
        return self.centres[which] + self.sd * noise

    def log_prob(self, x):
        """log p(x) in nats: (n, d) -> (n,)."""
        square = (x[:, None] - self.centres.to(x.dtype)).square().sum(2)             # (n, K)
        d = self.centres.shape[1]
        return (torch.logsumexp(-square / (2 * self.sd**2), 1) - math.log(len(self.centres))
                - d / 2 * math.log(2 * math.pi * self.sd**2))


def ring(n_modes=8, radius=2.0, sd=0.1):
    """Mixture of n_modes Gaussians in the plane with centres on a circle."""
    angle = 2 * math.pi / n_modes * torch.arange(n_modes)
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], 1), sd)


def digits():
    """scikit-learn's 8 x 8 digits in a fixed order: (train, test), each (images, classes).

    images (1400 or 397, 1, 8, 8) float32, the 17 levels 0, 1/16, .. 1; classes (n,) int64.
    """
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = torch.from_numpy(data.images[order].astype(np.float32) / 16).unsqueeze(1)
    classes = torch.from_numpy(data.target[order])
    return (images[:N_TRAIN], classes[:N_TRAIN]), (images[N_TRAIN:], classes[N_TRAIN:])


class Patterns:
    """K different binary patterns, equally likely, each a row of -1 and 1: (K, d) float32."""

    def __init__(self, patterns):
        self.patterns = patterns

    def sample(self, n, generator=None):
        """n patterns (n, d)."""
        return self.patterns[torch.randint(len(self.patterns), (n,), generator=generator)]

    def counts(self, x):
        """Number of items x (n, d) that equal each pattern -> (K,), int64."""
        return (x[:, None] == self.patterns).all(2).sum(0)


def bars_and_stripes(side=4):
    """Squares of rows, or columns, of 1 and -1: 2^(side + 1) - 2 patterns of side^2 bits."""
    lines = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * side)             # (2^side, side)
    rows = lines[:, :, None].expand(-1, side, side)
    return Patterns(torch.cat([rows, rows.mT[1:-1]]).flatten(1))  # all -1 and all 1 are among rows


class MarkovSource:
    """Strings of a first-order Markov chain, with the exact posterior of missing tokens.

    start (V,), step (V, V): p(x_1) and p(x_t | x_{t-1}), all positive; length T of a string.
    float64. Strings are int64 (n, T) in 0 .. V - 1; missing (n, T) is bool. Given the known
    tokens, the missing ones are a Markov chain again, whose steps the backward pass gives
    (Rabiner, A Tutorial on Hidden Markov Models, Proceedings of the IEEE 1989, Section III:
    forward and backward variables).
    """

    def __init__(self, start, step, length):
        self.log_start, self.log_step = start.double().log(), step.double().log()
        self.length = length

    def sample(self, n, generator=None):
        """n strings (n, T)."""
        x = [torch.multinomial(self.log_start.exp(), n, replacement=True, generator=generator)]
        for _ in range(1, self.length):
            p = self.log_step.exp()[x[-1]]
            x.append(torch.multinomial(p, 1, generator=generator).squeeze(1))
        return torch.stack(x, 1)

    def log_prob(self, x):
        """log p(x) in nats: (n, T) -> (n,)."""
        return self.log_start[x[:, 0]] + self.log_step[x[:, :-1], x[:, 1:]].sum(1)

    def posterior(self, x, missing):
        """log p(x_t | x_{t-1}, all known tokens): (n, T, V, V), row x_{t-1}, column x_t.

        At t = 0 all rows are the same; a known token is certain. Missing tokens of x are not read.
        """
        n, length, v = *x.shape, len(self.log_start)
        certain = torch.full((n, length, v), -math.inf, dtype=torch.float64)
        certain.scatter_(2, x.unsqueeze(2), 0.0).masked_fill_(missing.unsqueeze(2), 0.0)
        steps = []
        later = torch.zeros(n, v, dtype=torch.float64)      # log p(known tokens after t | x_t)
        for t in reversed(range(length)):
            before = self.log_step if t else self.log_start.expand(v, v)
            joint = before + (certain[:, t] + later)[:, None]
            later = joint.logsumexp(2)
            steps.append(joint - later.unsqueeze(2))
        return torch.stack(steps[::-1], 1)

    def fill(self, x, missing, generator=None):
        """The missing tokens drawn from their posterior: (n, T)."""
        steps = self.posterior(x, missing).exp()
        drawn = [torch.multinomial(steps[:, 0, 0], 1, generator=generator)]
        for t in range(1, self.length):
            row = drawn[-1].unsqueeze(2).expand(-1, -1, steps.shape[3])
            p = steps[:, t].gather(1, row).squeeze(1)
            drawn.append(torch.multinomial(p, 1, generator=generator))
        return torch.cat(drawn, 1)


def conditionals(steps, x):
    """log p(x_t | x_{t-1}, all known) at x_{t-1} of x: (n, T, V, V), (n, T) -> (n, T, V)."""
    before = torch.cat([x[:, :1], x[:, :-1]], 1)[..., None, None]       # at t = 0 any row does
    return steps.gather(2, before.expand(-1, -1, 1, steps.shape[3])).squeeze(2)


def markov_source(seed=0, v=20, length=20, concentration=0.1):
    """A source with Dirichlet rows and the stationary distribution as start."""
    rng = np.random.default_rng(seed)
    step = torch.from_numpy(rng.dirichlet(np.full(v, concentration), v))
    return MarkovSource(torch.linalg.matrix_power(step, 4096).mean(0), step, length)
