"""Measures of models: coverage of modes, densities on grids, two-sample tests, image distances."""
import math
from typing import NamedTuple

import torch
from torch.nn.functional import softplus

from evaluation.likelihood import Joint
from evaluation.modes import find_modes, midpoints, survey
from evaluation.quadrature import log_evidence, ml_sigma
from inference.posterior import squared_distances
from zoo.networks import mlp
from zoo.train import constant, descend

REACH = 3.0                      # radius of a mode, in stds
LEAST_MOVE = 1e-13               # least change of an output above rounding, float64


class Coverage(NamedTuple):
    """Coverage of a mixture by points."""
    modes: int                   # number of covered modes
    quality: float               # fraction of the points that belong to a mode
    kl: float                    # KL(fractions of the modes among these points || uniform), nats


def coverage(x, world):
    """Coverage of a `datasets.Mixture` by points x (n, d).

    A point belongs to its nearest mode if within REACH stds; a covered mode has 1 % of all points.
    """
    distance, mode = torch.cdist(x, world.centres).min(1)
    good = mode[distance <= REACH * world.sd]
    return _coverage(torch.bincount(good, minlength=len(world.centres)), len(x), 0.01)


def _coverage(counts, n, least):
    """Coverage by n items, of which counts (K,) belong to the modes."""
    k, good = len(counts), int(counts.sum())
    fractions = counts.double() / max(1, good)
    kl = torch.special.xlogy(fractions, fractions * k).sum().item() if good else math.inf
    return Coverage(int((counts >= least * n).sum()), good / n, kl)


def pattern_coverage(x, world):
    """Coverage of `datasets.Patterns` by items x (n, d).

    A pattern counts as covered if at least a fraction .1 / K of all items equals it.
    """
    return _coverage(world.counts(x), len(x), 0.1 / len(world.patterns))


class Grid(NamedTuple):
    """Cell centres of a square [-half, half]^2, float64."""
    z: torch.Tensor              # (cells^2, 2), z_1 slow, z_2 fast
    cells: int                   # per side
    half: float
    area: float                  # of a cell

    def log_integral(self, log_density):
        """log of the integral over the square, midpoint rule: log_density (cells^2,) -> ()."""
        return torch.logsumexp(log_density, 0) + math.log(self.area)

    def masses(self, log_density, fine=8):
        """Probability of each cell, normalised over the square, from fine x fine points per cell.

        log_density (m, 2) float64 -> (m,), up to a constant; returns (cells^2,) float64.
        """
        points = square(self.half, fine * self.cells).z
        mass = torch.softmax(log_density(points), 0)
        return mass.view(self.cells, fine, self.cells, fine).sum((1, 3)).flatten()

    def draw(self, masses, n):
        """n cell centres (n, 2), drawn with these probabilities (cells^2,)."""
        return self.z[torch.multinomial(masses, n, replacement=True)]

    def histogram(self, z):
        """Fraction of the points z (n, 2) in each cell -> (cells^2,)."""
        place = ((z.double() + self.half) / (2 * self.half) * self.cells).floor().long()
        place = place[((place >= 0) & (place < self.cells)).all(1)]
        counts = torch.bincount(place[:, 0] * self.cells + place[:, 1], minlength=self.cells**2)
        return counts.double() / len(z)


def square(half, cells):
    """A grid of cells x cells over [-half, half]^2 -> Grid."""
    return Grid(midpoints(half, cells), cells, half, (2 * half / cells) ** 2)


def total_variation(p, q):
    """1/2 sum |p - q| of distributions over the same cells, mass outside included: in [0, 1]."""
    outside = (p.sum() - q.sum()).abs()
    return ((p - q).abs().sum() + outside).item() / 2


def accuracy(real, fake):
    """Balanced accuracy of logits of real (n,), positive, and fake (m,) items, negative."""
    return ((real > 0).float().mean().item() + (fake < 0).float().mean().item()) / 2


def tell_apart(real, fake, steps=1000):
    """Accuracy of a new classifier of real and fake items (n, d): even rows train, odd rows test.

    A two-sample test (Lopez-Paz and Oquab, ICLR 2017); 1/2 if the distributions are equal.
    """
    net = mlp(real.shape[1], 128, 128, 1)

    def loss():
        logits = [net(x[::2][torch.randint((len(x) + 1) // 2, (256,))]) for x in (real, fake)]
        return (softplus(-logits[0]) + softplus(logits[1])).mean()

    descend(net.parameters(), loss, steps, 1e-3, schedule=constant)
    with torch.no_grad():
        return accuracy(net(real[1::2]).squeeze(1), net(fake[1::2]).squeeze(1))


def evidence(net, images, sigma, z, prior_sigma=1.0):
    """Estimate of log p(I; sigma) of images (n, c, h, w) -> evaluation.quadrature.Evidence.

    By quadrature around the modes that are found: not a bound, a missed mode makes it too small.

    net  any module z (n, 2) -> images
    z    (n, 2), additional starts of the search for modes, such as the means of an encoder
    """
    joint = Joint(net, images, prior_sigma)
    plane = survey(joint)
    return log_evidence(joint, plane, find_modes(joint, plane, sigma, z), sigma)


def likeliest_sigma(net, images, z):
    """The sigma that maximises the mean estimate of log p(I; sigma); arguments as of `evidence`."""
    joint = Joint(net, images, 1.0)
    return ml_sigma(joint, survey(joint), z)[0]


def dense(net, images, sigma, reach=6.0, cells=181):
    """log p(I; sigma) in nats by the midpoint rule over (-reach, reach)^2 -> (n,) float64.

    Accurate for posteriors wider than a cell, 2 reach / cells.
    """
    joint = Joint(net, images, 1.0)
    plane = survey(joint, reach, cells)
    index = torch.arange(len(images))[:, None]
    log_joint = joint.log_joint(plane.squared_error, index, plane.z, sigma)
    return log_joint.logsumexp(1) + math.log(plane.area)


class Causality(NamedTuple):
    """Changes in the outputs of an autoregressive model after a change of one input value."""
    leak: float                  # largest change of an output at or before the changed value
    reached: float               # fraction of later outputs that change, over all values
    moves: torch.Tensor          # (D, D): changed value, output; row by row, colours fastest


def causality(outputs, x, changed):
    """Change each value of an image alone, and compare the outputs -> Causality.

    outputs  images (n, c, h, w) -> (n, c, levels, h, w), float64: the prediction of each value
    x        (c, h, w); changed: another image, different in every value
    """
    d, values = x.numel(), x.movedim(0, -1).flatten()
    probes = torch.where(torch.eye(d, dtype=torch.bool), changed.movedim(0, -1).flatten(), values)
    images = torch.cat([values[None], probes]).unflatten(1, (*x.shape[1:], len(x))).movedim(-1, 1)
    with torch.no_grad():
        found = outputs(images)
    moves = (found[1:] - found[:1]).abs().amax(2).movedim(1, -1).flatten(1)
    later, earlier = torch.tril_indices(d, d, -1)
    reached = (moves[earlier, later] > LEAST_MOVE).double().mean()
    return Causality(moves.tril().max().item(), reached.item(), moves)


def pair_distance(x):
    """Mean distance between two of the items x (n, ...), over all pairs; 0 if all are the same."""
    return torch.pdist(x.flatten(1)).mean().item()


def nearest(x, images, itself=False):
    """Mean distance of the items x (n, c, h, w) to the nearest of images (m, c, h, w).

    itself  x are the images: the nearest other one counts
    """
    distances = squared_distances(x, images).clamp(min=0).sqrt()
    if itself:
        distances.fill_diagonal_(math.inf)
    return distances.amin(1).mean().item()


def class_shares(x, images, labels):
    """Fraction of each class among x (n, d) by the 3 nearest of images (m, d), labels (m,)."""
    votes = labels[torch.cdist(x, images).topk(3, largest=False).indices].mode(1).values
    return torch.bincount(votes, minlength=int(labels.max()) + 1) / len(x)
