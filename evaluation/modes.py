"""Modes of posteriors in the latent plane: a coarse grid, damped Gauss-Newton steps, Gaussians."""
import math
from typing import NamedTuple

import torch

MOST_STARTS = 4        # minima of the coarse grid, for each image, from which descents start
NEGLIGIBLE = 12.0      # nats below the heaviest mode at which a mode is dropped: 1 in 160,000
UNLIKELY = 30.0        # the same for Laplace's approximation, which may be far off
NEAR = 0.02            # squared Newton decrement where a descent ends: .01 nats, .1 stds
SAME = 0.5             # stds between the ends of two descents to the same mode
OVERLAP = 1.5          # joint stds between two modes that are merged
STALLED = 1e4          # damping at which a descent stops: its steps change U by rounding only


class Plane(NamedTuple):
    """A grid over the latent plane: the same points for all images."""
    z: torch.Tensor                # (m, 2) float64, z_1 slow, z_2 fast
    squared_error: torch.Tensor    # (n, m) |I_i - g(z)|^2
    cells: int                     # per side
    area: float                    # of a cell


def midpoints(half, cells):
    """Centres of cells x cells squares of (-half, half)^2: (cells^2, 2) float64, z_1 slow."""
    axis = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * half
    return torch.cartesian_prod(axis, axis)


class Modes(NamedTuple):
    """Gaussian approximations of the posteriors of all images, one row for each mode."""
    image: torch.Tensor            # (k,) index of the image, ascending
    z: torch.Tensor                # (k, 2) centre
    factor: torch.Tensor           # (k, 2, 2) F, covariance F F'
    log_mass: torch.Tensor         # (k,) log of the integral of p(z, I) over it

    def of(self, i):
        """The modes of image i."""
        return Modes(*(values[self.image == i] for values in self))

    def heaviest(self):
        """The row of the heaviest mode of each image, (n,)."""
        rows = [(self.image == i).nonzero().squeeze(1) for i in self.image.unique().tolist()]
        return torch.stack([own[self.log_mass[own].argmax()] for own in rows])


def survey(joint, reach=4.5, cells=42):
    """The coarse grid: cells x cells points over (-reach, reach)^2, in stds of the prior."""
    half = reach * joint.prior_sigma
    z = midpoints(half, cells)
    return Plane(z, joint.distances(z), cells, (2 * half / cells) ** 2)


def find_modes(joint, plane, sigma, z):
    """The modes of all posteriors, by descents from minima on the coarse grid and from z (n, 2)."""
    minima, image = _minima(joint, plane, sigma)
    image = torch.cat([image, torch.arange(len(z))])
    return descend(joint, sigma, image, torch.cat([minima, z.double()]))


def descend(joint, sigma, image, z):
    """The distinct modes that descents reach from z (m, 2) for the images `image` (m,) -> Modes."""
    z, energy, _, metric = refine(lambda i, z: joint.local(image[i], z, sigma), z, tol=NEAR)
    return _distinct(image, z, energy, metric)


def _minima(joint, plane, sigma):
    """The lowest local minima of U on the coarse grid, (m, 2), and the image of each, (m,)."""
    prior = plane.z.square().sum(1) / (2 * joint.prior_sigma**2)
    energy = plane.squared_error / (2 * sigma**2) + prior                                 # (n, m)
    grid = energy.view(len(energy), 1, plane.cells, plane.cells)
    lowest = -torch.nn.functional.max_pool2d(-grid, 3, 1, 1)
    minima = torch.where(grid == lowest, grid, math.inf).flatten(1)
    value, place = minima.topk(min(MOST_STARTS, minima.shape[1]), largest=False)
    found = value.flatten().isfinite()
    image = torch.arange(len(energy)).repeat_interleave(value.shape[1])
    return plane.z[place.flatten()[found]], image[found]


def _distinct(image, z, energy, metric):
    """Without duplicate and negligible modes; masses by Laplace's approximation."""
    log_mass = -energy - torch.logdet(metric) / 2 + math.log(2 * math.pi)
    order = log_mass.argsort(descending=True)
    image, z, metric, log_mass = (values[order] for values in (image, z, metric, log_mass))
    gap = z[:, None] - z
    found = torch.einsum("ija,jab,ijb->ij", gap, metric, gap) < SAME**2       # i within j
    twice = (found & (image[:, None] == image)).tril(-1).any(1)               # of a heavier one
    heaviest = torch.stack([log_mass[image == i].amax() for i in image.unique()])
    kept = (~twice & (log_mass > heaviest[image] - UNLIKELY)).nonzero().squeeze(1)
    kept = kept[image[kept].argsort(stable=True)]
    factor = torch.linalg.cholesky(torch.linalg.inv(metric[kept]))
    return Modes(image[kept], z[kept], factor, log_mass[kept])


def merged(modes):
    """Modes of an image that overlap, merged to one of the same mass, mean and covariance."""
    rows = []
    for i in modes.image.unique().tolist():
        kept = []  # (mass, mean, covariance), heaviest first
        own = modes.of(i)
        for k in own.log_mass.argsort(descending=True).tolist():
            new = own.log_mass[k], own.z[k], own.factor[k] @ own.factor[k].T
            for j, old in enumerate(kept):
                gap = new[1] - old[1]
                if gap @ torch.linalg.solve(old[2] + new[2], gap) < OVERLAP**2:
                    kept[j] = _joined(old, new)
                    break
            else:
                kept.append(new)
        rows += [(torch.tensor(i), z, torch.linalg.cholesky(covariance), mass)
                 for mass, z, covariance in kept]
    return Modes(*map(torch.stack, zip(*rows, strict=True)))


def _joined(a, b):
    mass = torch.logaddexp(a[0], b[0])
    p, gap = (b[0] - mass).exp(), b[1] - a[1]
    return mass, a[1] + p * gap, (1 - p) * a[2] + p * b[2] + p * (1 - p) * gap.outer(gap)


def log_gaussians(modes, z):
    """log of w_k N(z; m_k, C_k) for each mode k of one image, at z (m, 2) -> (k, m)."""
    u = torch.linalg.solve(modes.factor, (z[None] - modes.z[:, None]).mT)  # (k, 2, m)
    log_det = torch.linalg.det(modes.factor).abs().log()
    log_peak = modes.log_mass - log_det - math.log(2 * math.pi)
    return log_peak[:, None] - u.square().sum(1) / 2


def log_share(mixture, image, z):
    """log r_k at the points z (k, m, 2) of each mode k, among the modes of its image."""
    shares = []
    for i in image.unique().tolist():
        own = mixture.of(i)
        points = z[image == i]
        logs = log_gaussians(own, points.flatten(0, 1)).view(len(own.z), *points.shape[:2])
        shares.append(logs.diagonal(dim1=0, dim2=1).T - logs.logsumexp(0))
    return torch.cat(shares)


@torch.no_grad()
def refine(local, z, n_steps=20, tol=1e-4):
    """Descend U from each row of z: z' = z - (G + lambda diag G)^-1 dU/dz, kept only where U falls.

    local    local(index, z) -> U (m,), dU/dz (m, d) and G (m, d, d), symmetric positive definite,
             as Posterior.local, at z (m, d) for the rows `index` (m,)
    z        (n, d) starts
    n_steps  most steps of a row; one evaluation each
    tol      squared Newton decrement dU/dz' G^-1 dU/dz below which a row is done

    Each row has its damping lambda (Marquardt 1963): a tenth of it after a step that is kept, five
    times it after another. Steps to where U or a derivative is not finite are not kept.
    Returns z (n, d), U (n,), dU/dz (n, d), G (n, d, d) at the end, in the dtype of z.
    """
    index = torch.arange(len(z), device=z.device)
    z = z.clone()
    energy, grad, metric = (values.clone() for values in local(index, z))
    damping = torch.ones_like(energy)
    for _ in range(n_steps):
        decrement = (grad[index] * _solve(metric[index], grad[index])).sum(1)
        far = decrement >= tol                                             # false for nan: done
        index = index[far & (damping[index] < STALLED)]
        if not len(index):
            break
        diagonal = torch.diag_embed(metric[index].diagonal(dim1=1, dim2=2))
        new = z[index] - _solve(metric[index] + damping[index, None, None] * diagonal, grad[index])
        values = local(index, new)
        falls = (values[0] < energy[index]) & torch.isfinite(torch.cat(
            [values[1], values[2].flatten(1)], 1)).all(1)
        kept = index[falls]
        for old, value in zip((z, energy, grad, metric), (new, *values), strict=True):
            old[kept] = value[falls]
        damping[index] *= torch.where(falls, 0.1, 5.0)
    return z, energy, grad, metric


def _solve(metric, grad):
    """G^-1 g in float64, since G may be ill-conditioned: (n, d, d), (n, d) -> (n, d)."""
    move, _ = torch.linalg.solve_ex(metric.double(), grad.double().unsqueeze(2))
    return move.squeeze(2).to(grad.dtype)
