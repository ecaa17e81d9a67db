"""How good a model is, as numbers: modes, densities on grids, distances between images.

log p of a generator with a 2-D latent comes from evaluation/: `evidence` by its needles, `dense` by its grid.
"""
import math
from typing import NamedTuple

import torch
from torch.nn.functional import softplus

from evaluation.likelihood import Joint
from evaluation.modes import find_modes, survey
from evaluation.quadrature import log_evidence, ml_sigma
from inference.posterior import squared_distances
from zoo.core import alternate, mlp

REACH = 3.0                      # stds of its mode within which a point of a mixture is a good one
LEAST_MOVE = 1e-13               # of an output, in float64, above what rounding may do


class Coverage(NamedTuple):
    """How points cover a mixture."""
    modes: int                   # modes that hold at least their least share of the points
    quality: float               # share of the points within REACH stds of a centre
    kl: float                    # KL(shares of the modes among the good points || uniform), nats


def coverage(x, world, least=0.01):
    """Coverage of a `worlds.Mixture` by points x (n, d).

    A good point is within REACH stds of its nearest centre, and a mode counts if it has at least `least` of
    all points as good ones: a single stray point discovers nothing.
    """
    distance, nearest = torch.cdist(x, world.centres).min(1)
    good = nearest[distance <= REACH * world.sd]
    return _coverage(torch.bincount(good, minlength=len(world.centres)), len(x), least)


def _coverage(counts, n, least):
    """Coverage by n items, of which counts (K,) are good ones of the modes."""
    k, good = len(counts), int(counts.sum())
    share = counts.double() / max(1, good)
    kl = torch.special.xlogy(share, share * k).sum().item() if good else math.inf
    return Coverage(int((counts >= least * n).sum()), good / n, kl)


def pattern_coverage(x, world, least=0.1):
    """Coverage of `worlds.Patterns` by items x (n, d), good if they are a pattern, bit for bit.

    A pattern counts as a mode if it is at least `least` times 1 / K of all items.
    """
    return _coverage(world.counts(x), len(x), least / len(world.patterns))


def one_gaussian(x, n):
    """n draws (n, d) of the Gaussian with the mean and the covariance of points x (m, d): no modes at all."""
    return x.mean(0) + torch.randn(n, x.shape[1]) @ torch.linalg.cholesky(x.T.cov()).T


class Grid(NamedTuple):
    """Cell centres of a square [-half, half]^2, float64."""
    z: torch.Tensor              # (cells^2, 2), z_1 slow, z_2 fast
    cells: int                   # a side
    half: float
    area: float                  # of a cell

    def log_integral(self, log_density):
        """log of the integral over the square, midpoint rule: log_density (cells^2,) -> ()."""
        return torch.logsumexp(log_density, 0) + math.log(self.area)

    def masses(self, log_density, fine=8):
        """Share of a density in each cell, normalised over the square, from fine x fine points in each.

        log_density (m, 2) float64 -> (m,), up to a constant; returns (cells^2,) float64.
        """
        points = square(self.half, fine * self.cells).z
        share = torch.softmax(log_density(points), 0)
        return share.view(self.cells, fine, self.cells, fine).sum((1, 3)).flatten()

    def draw(self, masses, n):
        """n cell centres (n, 2), drawn with these probabilities."""
        return self.z[torch.multinomial(masses, n, replacement=True)]

    def histogram(self, z):
        """Share of the points z (n, 2) in each cell -> (cells^2,); what lies outside is in none."""
        place = ((z.double() + self.half) / (2 * self.half) * self.cells).floor().long()
        place = place[((place >= 0) & (place < self.cells)).all(1)]
        counts = torch.bincount(place[:, 0] * self.cells + place[:, 1], minlength=self.cells**2)
        return counts.double() / len(z)


def square(half, cells):
    """A grid of cells x cells over [-half, half]^2 -> Grid."""
    axis = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * half
    return Grid(torch.cartesian_prod(axis, axis), cells, half, (2 * half / cells) ** 2)


def total_variation(p, q):
    """1/2 sum |p - q| of two distributions over the same cells, with what each has outside: in [0, 1]."""
    outside = (p.sum() - q.sum()).abs()
    return ((p - q).abs().sum() + outside).item() / 2


# ------------------------------------------------------------------------------------------- two-sample tests

def accuracy(real, fake):
    """How often logits of real (n,) and fake (m,) items have the right sign: 1/2 if they tell nothing."""
    return ((real > 0).float().mean().item() + (fake < 0).float().mean().item()) / 2


def tell_apart(real, fake, steps=1000, width=128):
    """Accuracy of a new classifier on the second halves of real and fake (n, d), taught on the first.

    A two-sample test (Lopez-Paz and Oquab, ICLR 2017): 1/2 if the distributions are the same.
    """
    net = mlp(real.shape[1], width, width, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def loss():
        logits = [net(x[::2][torch.randint((len(x) + 1) // 2, (256,))]) for x in (real, fake)]
        return (softplus(-logits[0]) + softplus(logits[1])).mean()

    alternate((optimizer, loss, steps))
    with torch.no_grad():
        return accuracy(net(real[1::2]).squeeze(1), net(fake[1::2]).squeeze(1))


# ------------------------------------------------------------------- generators with a latent of 2 dimensions

def evidence(net, images, sigma, z, prior_sigma=1.0):
    """log p(I; sigma) of images (n, c, h, w) by adaptive quadrature -> evaluation.quadrature.Evidence.

    net as GenNet, with forward, jacobian and the parts code and deconv; z (n, 2) places from which modes are
    searched for too, such as the means of an encoder.
    """
    joint = Joint(net, images, prior_sigma)
    plane = survey(joint)
    return log_evidence(joint, plane, find_modes(joint, plane, sigma, z), sigma)


def likeliest_sigma(net, images, z, prior_sigma=1.0):
    """The sigma that maximises the mean log p(I; sigma) of images (n, c, h, w); z (n, 2) as of `evidence`."""
    joint = Joint(net, images, prior_sigma)
    return ml_sigma(joint, survey(joint), z)[0]


def dense(net, images, sigma, reach=6.0, cells=181, prior_sigma=1.0):
    """log p(I; sigma) by the midpoint rule over (-reach, reach)^2 stds of the prior -> (n,) float64, nats.

    For posteriors that are wider than a cell, 2 reach / cells.
    """
    joint = Joint(net, images, prior_sigma)
    plane = survey(joint, reach, cells)
    index = torch.arange(len(images))[:, None]
    return joint.log_joint(plane.squared_error, index, plane.z, sigma).logsumexp(1) + math.log(plane.area)


# --------------------------------------------------------------------------------------------- autoregression

class Causality(NamedTuple):
    """Which outputs of an autoregression move if a value of its input is changed."""
    leak: float                  # largest move of an output at or before the changed value: 0 if it is causal
    reached: float               # share of pairs (value, later value) in which the later one's output moves
    moves: torch.Tensor          # (D, D): changed value, output; D = c h w values row by row, colours fastest


def causality(outputs, x, changed):
    """Change each value of an image alone, and see what moves -> Causality.

    outputs  images (n, c, h, w) -> (n, c, levels, h, w), float64: what is said of each value
    x        (c, h, w); changed: another such image, different in every value

    Raises ValueError if a value is the same in both.
    """
    if (x == changed).any():
        raise ValueError("x and changed must differ in every value: what is not changed cannot move a thing")
    d, values = x.numel(), x.movedim(0, -1).flatten()
    probes = torch.where(torch.eye(d, dtype=torch.bool), changed.movedim(0, -1).flatten(), values)    # (D, D)
    images = torch.cat([values[None], probes]).unflatten(1, (*x.shape[1:], len(x))).movedim(-1, 1)
    with torch.no_grad():
        said = outputs(images)
    moves = (said[1:] - said[:1]).abs().amax(2).movedim(1, -1).flatten(1)
    later, earlier = torch.tril_indices(d, d, -1)
    reached = (moves[earlier, later] > LEAST_MOVE).double().mean()
    return Causality(moves.tril().max().item(), reached.item(), moves)


# ----------------------------------------------------------------------------------------------------- images

def pair_distance(x):
    """Mean distance between two of the items x (n, ...), over all pairs: 0 if all are the same."""
    return torch.pdist(x.flatten(1)).mean().item()


def nearest(x, images, itself=False):
    """Mean distance of the items x (n, c, h, w) to the nearest of images (m, c, h, w).

    itself: x are those images, and each looks for the nearest other one.
    """
    distances = squared_distances(x, images).clamp(min=0).sqrt()
    if itself:
        distances.fill_diagonal_(math.inf)
    return distances.amin(1).mean().item()


def class_shares(x, images, labels):
    """Share of each class among items x (n, d), each judged by its 3 nearest of images (m, d) -> (classes,).

    labels (m,) from 0; of three different ones the least counts.
    """
    votes = labels[torch.cdist(x, images).topk(3, largest=False).indices].mode(1).values
    return torch.bincount(votes, minlength=int(labels.max()) + 1) / len(x)
