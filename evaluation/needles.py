"""Where in the latent plane the mass of each posterior is: a coarse grid, modes, and Gaussians for them."""
import math
from typing import NamedTuple

import torch

from evaluation.modes import refine

MOST_STARTS = 4        # places of the coarse grid, for each image, from which Gauss-Newton starts
NEGLIGIBLE = 12.0      # nats below the heaviest mode from which a mode does not count: 1 in 160,000
UNLIKELY = 30.0        # the same for Laplace's approximation, which may be far off
ROUGH = 2.0**-18       # of |I - g|^2 for each value, more than a descent in bf16 leaves
NEAR = 0.02            # squared Newton decrement of the end of a descent: .01 nats, a tenth of a std
SAME = 0.5             # stds between the ends of two descents that went to one mode
OVERLAP = 1.5          # stds, of both together, between two needles that are one


class Plane(NamedTuple):
    """A grid over the latent plane: the same points for all images."""
    z: torch.Tensor                # (m, 2) float64, z_1 slow, z_2 fast
    squared_error: torch.Tensor    # (n, m) |I_i - g(z)|^2
    cells: int                     # a side
    area: float                    # of a cell


class Modes(NamedTuple):
    """Gaussian approximations of the posteriors of all images, one row for each mode."""
    image: torch.Tensor            # (k,) which image it belongs to, in ascending order
    z: torch.Tensor                # (k, 2) centre
    factor: torch.Tensor           # (k, 2, 2) F, covariance F F'
    log_mass: torch.Tensor         # (k,) log of the integral of p(z, I) over it

    def of(self, i):
        """Those of image i."""
        return Modes(*(values[self.image == i] for values in self))

    def weighty(self):
        """Without those that are NEGLIGIBLE beside the heaviest of their image."""
        heaviest = self.log_mass[self.heaviest()][self.image]
        return Modes(*(values[self.log_mass > heaviest - NEGLIGIBLE] for values in self))

    def heaviest(self):
        """The row of the heaviest mode of each image, (n,)."""
        rows = [(self.image == i).nonzero().squeeze(1) for i in self.image.unique().tolist()]
        return torch.stack([own[self.log_mass[own].argmax()] for own in rows])


def survey(joint, reach=4.5, cells=42):
    """The coarse grid: cells x cells points over (-reach, reach)^2, in stds of the prior."""
    half = reach * joint.prior_sigma
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * half - half
    z = torch.cartesian_prod(axis, axis)
    return Plane(z, joint.distances(z), cells, (2 * half / cells) ** 2)


def find_modes(joint, plane, sigma, z):
    """The modes of all posteriors, searched from the lowest minima of U on the coarse grid and z (n, 2)."""
    minima, image = _minima(joint, plane, sigma)
    image, z = torch.cat([image, torch.arange(len(z))]), torch.cat([minima, z.double()])
    if sigma < joint.quick_sigma:
        image, z = _approach(joint, sigma, image, z)
    return _descend(joint, sigma, image, z)


def follow_modes(joint, modes, sigma):
    """The modes as they are at another sigma."""
    return _descend(joint, sigma, modes.image, modes.z)


def _approach(joint, sigma, image, z):
    """Most of the way down in the arithmetic of the search; the ends from which a mode may count.

    Below quick_sigma descents need float32, and most starts end in minima that are hopeless there. What the
    quick descent leaves of |I - g|^2, a rounding of 2^-20 a value above all, is well below ROUGH a value.
    """
    z, _, _, _ = refine(lambda index, z: joint.local(image[index], z, joint.quick_sigma), z, tol=NEAR)
    log_joint = joint.log_joint(joint.squared_error(image, z), image, z, sigma)
    best = torch.full((len(joint.images),), -math.inf, dtype=log_joint.dtype)
    best.scatter_reduce_(0, image, log_joint, "amax")
    hopeful = log_joint > best[image] - UNLIKELY - ROUGH * joint.n_values[image] / (2 * sigma**2)
    return image[hopeful], z[hopeful]


def _descend(joint, sigma, image, z):
    z, energy, _, metric = refine(lambda index, z: joint.local(image[index], z, sigma), z, tol=NEAR)
    return _distinct(image, z, energy, metric)


def _minima(joint, plane, sigma):
    """The lowest local minima of U on the coarse grid, (m, 2), and the image of each, (m,)."""
    energy = (plane.squared_error / (2 * sigma**2)
              + plane.z.square().sum(1) / (2 * joint.prior_sigma**2))                       # (n, m)
    grid = energy.view(len(energy), 1, plane.cells, plane.cells)
    lowest = -torch.nn.functional.max_pool2d(-grid, 3, 1, 1)
    minima = torch.where(grid == lowest, grid, math.inf).flatten(1)
    value, place = minima.topk(min(MOST_STARTS, minima.shape[1]), largest=False)
    found = value.flatten().isfinite()
    image = torch.arange(len(energy)).repeat_interleave(value.shape[1])
    return plane.z[place.flatten()[found]], image[found]


def _distinct(image, z, energy, metric):
    """Drop modes found twice and negligible ones; masses by Laplace's approximation."""
    log_mass = -energy - torch.logdet(metric) / 2 + math.log(2 * math.pi)
    kept = []
    for i in image.unique().tolist():
        own = (image == i).nonzero().squeeze(1)
        own = own[log_mass[own].argsort(descending=True)]
        found = []
        for k in own.tolist():
            if log_mass[k] < log_mass[own[0]] - UNLIKELY:
                break
            gaps = [((z[k] - z[j]) @ metric[j] @ (z[k] - z[j])).sqrt() for j in found]
            if all(gap > SAME for gap in gaps):
                found.append(k)
        kept += found
    kept = torch.tensor(kept)
    factor = torch.linalg.cholesky(torch.linalg.inv(metric[kept]))
    return Modes(image[kept], z[kept], factor, log_mass[kept])


def merged(modes):
    """One Gaussian, of the same mass, mean and covariance, for modes of an image that overlap."""
    rows = []
    for i in modes.image.unique().tolist():
        kept = []                                              # (mass, mean, covariance), heaviest first
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
    u = torch.linalg.solve(modes.factor, (z[None] - modes.z[:, None]).mT)                 # (k, 2, m)
    log_det = torch.linalg.det(modes.factor).abs().log()
    return modes.log_mass[:, None] - u.square().sum(1) / 2 - log_det[:, None] - math.log(2 * math.pi)


def log_share(mixture, image, z):
    """log r_k at the points z (k, m, 2) of the k-th mode, among the modes of the same image."""
    shares = []
    for i in image.unique().tolist():
        own = mixture.of(i)
        points = z[image == i]
        logs = log_gaussians(own, points.flatten(0, 1)).view(len(own.z), *points.shape[:2])
        shares.append(logs.diagonal(dim1=0, dim2=1).T - logs.logsumexp(0))
    return torch.cat(shares)
