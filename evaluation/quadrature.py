"""Estimates of log p(I) of a generator with a 2-D latent, by quadrature over the latent plane.

    p(I; sigma) = integral N(I; g(z), sigma^2 I_D) N(z; 0, prior_sigma^2 I_2) dz

The integrand is a few narrow modes. A coarse grid over the plane finds where to search,
Gauss-Newton steps go to the modes, and the mixture q = sum_k w_k N(m_k, C_k) of their Gaussian
approximations divides the integral into parts of one mode each, which may overlap:

    p(I) = sum_k integral r_k(z) p(z, I) dz,     r_k = w_k N(z; m_k, C_k) / q(z).

Each part is summed over a square lattice in coordinates in which its mode is round: for smooth
modes the error falls exponentially with the spacing (the trapezoid rule; Trefethen and Weideman
2014). Lattices are refined and widened until the error estimate is below a tolerance.

The result is an estimate, not a bound: a mode narrower than a cell of the coarse grid (.21 prior
stds) that no search finds is missing from log p and from the error estimate. The tests compare with
annealed importance sampling, which uses neither the grid nor the modes.
"""
import math
from typing import NamedTuple

import torch

from evaluation.modes import (
    NEGLIGIBLE,
    Modes,
    descend,
    find_modes,
    log_gaussians,
    log_share,
    merged,
)

SPACING, REACH = 0.8, 4.5      # of the first lattice, in stds of the mode
MOST_POINTS = 8_000            # of one lattice
ROUNDS = 8
WIDER = 1.5                    # factor of the stds of modes in importance sampling


class Evidence(NamedTuple):
    """Result of quadrature for each image; float64."""
    log_p: torch.Tensor            # (n,) estimate of log p(I_i), nats
    error: torch.Tensor            # (n,) estimate of its error, nats: lattice, range and float32
    mean: torch.Tensor             # (n, 2) of the posterior
    covariance: torch.Tensor       # (n, 2, 2)
    squared_error: torch.Tensor    # (n,) posterior mean of |I_i - g(z)|^2
    modes: Modes                   # the Gaussians of q; masses are those of p(z, I)


def log_evidence(joint, plane, modes, sigma, tolerance=0.05):
    """Estimate log p(I_i; sigma) of every image -> Evidence.

    modes      as `find_modes` returns them for this sigma
    tolerance  nats; lattices are refined until their error estimate is below it
    """
    n = len(joint.images)
    # a first, coarse sum gives each mode its mass and width; Laplace's are those of the peak
    modes = merged(_Sums(joint, modes, sigma, 1.0, REACH).moved(modes))
    parts, errors, todo = [None] * n, torch.zeros(n, dtype=torch.float64), range(n)
    spacings, reaches = [SPACING] * n, [REACH] * n
    for _ in range(ROUNDS):
        again = []
        for i in todo:
            own = modes.of(i)
            parts[i] = part = _Sums(joint, own, sigma, spacings[i], reaches[i])
            missed = _missed(joint, plane, own, i, sigma, reaches[i]) - part.log_p
            tail = part.tail + missed.clamp(max=0).exp().item()
            errors[i] = part.lattice + tail
            if errors[i] > tolerance and len(part.u) < MOST_POINTS:
                again.append(i)
                spacings[i] *= 0.7 if part.lattice > tolerance / 2 else 1.0
                reaches[i] *= 1.25 if tail > tolerance / 2 else 1.0
        todo = again
    best = torch.stack([part.z.flatten(0, 1)[part.weight.argmax()] for part in parts])
    rounding = joint.rounding(torch.arange(n), best).abs() / (2 * sigma**2)
    log_p, *moments = (torch.stack(values) for values in zip(
        *((part.log_p, *part.moments()) for part in parts), strict=True))
    return Evidence(log_p, errors + rounding, *moments, modes)


class _Sums:
    """log of r_k p times the area of a lattice cell, at the lattices of some modes.

    All methods but `moved` need modes of one image.
    """

    def __init__(self, joint, modes, sigma, spacing, reach):
        self.u, self.halves = _lattice(spacing, reach)  # (m, 2), (3, m)
        self.factor, self.spacing, self.reach = modes.factor, spacing, reach
        self.z = modes.z[:, None] + self.u @ modes.factor.mT  # (k, m, 2)
        index, z = modes.image.repeat_interleave(len(self.u)), self.z.flatten(0, 1)
        squared_error = joint.squared_error(index, z)
        log_joint = joint.log_joint(squared_error, index, z, sigma).view(len(modes.z), -1)
        area = torch.linalg.det(modes.factor).abs().log() + 2 * math.log(spacing)
        self.squared_error = squared_error.view(len(modes.z), -1)
        self.weight = log_joint + log_share(modes, modes.image, self.z) + area[:, None]   # (k, m)
        self.log_p = self.weight.flatten().logsumexp(0)

    @property
    def lattice(self):
        """Greatest |difference of log sums over two halves of the lattice|, an error estimate.

        Halves are the even and odd rows, columns and diagonals: coarser lattices of larger error.
        """
        return max((self._mass(even) - self._mass(~even)).abs().item() for even in self.halves)

    def _mass(self, places):
        return self.weight[:, places].flatten().logsumexp(0)

    @property
    def tail(self):
        """Fraction of the mass beyond the reach: a geometric series from two outer rings."""
        radius = self.u.norm(dim=1)
        outer, inner = (self._mass((radius > r) & (radius <= r + 1)) - self.log_p
                        for r in (self.reach - 1, self.reach - 2))
        ratio = (outer - inner).exp().item()
        return outer.exp().item() * (ratio / (1 - ratio) if ratio < 0.5 else 1.0)

    def moments(self):
        """Mean (2,), covariance (2, 2) and mean |I - g(z)|^2 of the posterior."""
        share, z = (self.weight - self.log_p).exp().flatten(), self.z.flatten(0, 1)
        mean = share @ z
        centred = z - mean
        return mean, (share[:, None] * centred).T @ centred, share @ self.squared_error.flatten()

    def moved(self, modes):
        """Modes with the masses, means and covariances of the sums, without NEGLIGIBLE ones."""
        log_mass = self.weight.logsumexp(1)
        share = (self.weight - log_mass[:, None]).exp()                                   # (k, m)
        mean = share @ self.u  # (k, 2), in u
        centred = self.u - mean[:, None]
        covariance = torch.einsum("km,kma,kmb->kab", share, centred, centred)
        value, vector = torch.linalg.eigh(covariance)
        value = value.clamp(min=self.spacing**2 / 4)       # the lattice resolves no less
        factor = self.factor @ vector * value.sqrt()[:, None]
        shift = (self.factor @ mean.unsqueeze(2)).squeeze(2)
        moved = Modes(modes.image, modes.z + shift, factor, log_mass)
        kept = log_mass > log_mass[moved.heaviest()][modes.image] - NEGLIGIBLE
        return Modes(*(values[kept] for values in moved))


def _lattice(spacing, reach):
    """The square lattice in a disk, (m, 2), and its even rows, columns and diagonals, (3, m)."""
    k = torch.arange(-math.floor(reach / spacing), math.floor(reach / spacing) + 1)
    places = torch.cartesian_prod(k, k)
    places = places[(places * spacing).double().norm(dim=1) <= reach]
    return places.double() * spacing, torch.stack([*places.T, places.sum(1)]) % 2 == 0


def _missed(joint, plane, modes, i, sigma, reach):
    """log of the mass of image i outside its lattices, by the coarse grid."""
    index = torch.full((len(plane.z),), i)
    log_joint = joint.log_joint(plane.squared_error[i], index, plane.z, sigma)
    logs = log_gaussians(modes, plane.z)
    radius = torch.linalg.solve(modes.factor, (plane.z[None] - modes.z[:, None]).mT).norm(dim=1)
    outside = torch.where(radius > reach, logs - logs.logsumexp(0), -math.inf).logsumexp(0)
    return (log_joint + outside).logsumexp(0) + math.log(plane.area)


def ml_sigma(joint, plane, z, tolerance=1e-3, rounds=30):
    """The sigma that maximises sum_i log p(I_i; sigma), and the evidence at that sigma.

    EM: sigma^2 <- mean over values of E |I - g(z)|^2, z from the posterior at the last sigma; in
    Laplace's approximation until that converges, then by quadrature. It starts from the sigma of
    the residuals at z (n, 2), such as a run's latents.
    """
    values = joint.n_values.sum()
    sigma = math.sqrt(joint.squared_error(torch.arange(len(z)), z).sum() / values)
    modes = find_modes(joint, plane, sigma, z)
    for _ in range(rounds):
        best = modes.heaviest()
        index = torch.arange(len(best))
        squared_error = joint.squared_error(index, modes.z[best])
        covariance = modes.factor[best] @ modes.factor[best].mT
        _, _, metric = joint.local(index, modes.z[best], sigma)
        prior = torch.eye(2, dtype=torch.float64) / joint.prior_sigma**2
        # E |I - g(z)|^2 = |I - g(m)|^2 + tr(J'J C) for z ~ N(m, C)
        spread = sigma**2 * ((metric - prior) * covariance).sum((1, 2))
        sigma, last = math.sqrt((squared_error + spread).sum() / values), sigma
        modes = descend(joint, sigma, modes.image, modes.z)
        if abs(sigma / last - 1) < tolerance:
            break
    evidence = log_evidence(joint, plane, modes, sigma)
    for _ in range(rounds):
        better = math.sqrt(evidence.squared_error.sum() / values)
        if abs(better / sigma - 1) < tolerance:
            break
        sigma = better
        modes = descend(joint, sigma, modes.image, modes.z)
        evidence = log_evidence(joint, plane, modes, sigma)
    return sigma, evidence


def importance(joint, modes, sigma, n_draws=128):
    """log p(I_i) by importance sampling from the mixture of the modes, their stds widened.

    Returns estimates (n,) and their standard errors (n,), nats. Mass outside the modes is missed.
    """
    generator = torch.Generator().manual_seed(0)
    wide = modes._replace(factor=WIDER * modes.factor)
    estimates, errors = [], []
    for i in modes.image.unique().tolist():
        own = wide.of(i)
        log_total = own.log_mass.logsumexp(0)
        which = torch.multinomial((own.log_mass - log_total).exp(), n_draws, replacement=True,
                                  generator=generator)
        noise = torch.randn(n_draws, 2, 1, generator=generator, dtype=torch.float64)
        z = own.z[which] + (own.factor[which] @ noise).squeeze(2)
        index = torch.full((n_draws,), i)
        log_joint = joint.log_joint(joint.squared_error(index, z), index, z, sigma)
        log_ratio = log_joint - log_gaussians(own, z).logsumexp(0) + log_total
        ratio = (log_ratio - log_ratio.max()).exp()
        estimates.append(log_ratio.max() + ratio.mean().log())
        errors.append(ratio.std() / ratio.mean() / math.sqrt(n_draws))
    return torch.stack(estimates), torch.stack(errors)
