"""log p(I) of a generator with a 2-D latent, by quadrature over the latent plane.

    p(I; sigma) = integral N(I; g(z), sigma^2 I_D) N(z; 0, prior_sigma^2 I_2) dz

The integrand is a few needles in a plane. A coarse grid over the plane finds them, Gauss-Newton steps go to
their tips, and the mixture q = sum_k w_k N(m_k, C_k) of their Gaussian approximations divides the integral,

    p(I) = sum_k integral r_k(z) p(z, I) dz,     r_k = w_k N(z; m_k, C_k) / q(z),

into parts of one needle each that add up exactly, however the needles overlap. Each part is summed over a
square lattice in the coordinates in which its needle is round: for smooth needles the error of that sum falls
exponentially with the spacing (the trapezoid rule; Trefethen and Weideman 2014). Lattices are refined and
widened until the error estimate is below a tolerance.
"""
import math
from typing import NamedTuple

import torch

from evaluation.needles import Modes, find_modes, follow_modes, log_gaussians, log_share, merged

SPACING, REACH = 0.8, 4.5          # of the lattice, in stds of the needle
MOST_POINTS = 8_000    # of one lattice
ROUNDS = 8


class Evidence(NamedTuple):
    """What quadrature gives, for each image; float64."""
    log_p: torch.Tensor            # (n,) log p(I_i), nats
    error: torch.Tensor            # (n,) estimate of its error, nats: lattice, range and float32 together
    mean: torch.Tensor             # (n, 2) of the posterior
    covariance: torch.Tensor       # (n, 2, 2)
    squared_error: torch.Tensor    # (n,) posterior mean of |I_i - g(z)|^2
    modes: Modes


def log_evidence(joint, plane, modes, sigma, spacing=SPACING, reach=REACH, tolerance=0.05):
    """log p(I_i; sigma) of every image, with all that its sums give -> Evidence.

    modes      where to sum, as `find_modes` gives them for this sigma
    spacing    of the lattices to begin with, in stds of a needle
    reach      of the lattices to begin with, likewise
    tolerance  nats; lattices are refined until the estimate of their error is below it
    """
    n = len(joint.images)
    modes = modes._replace(log_mass=modes.log_mass - joint.n_values[modes.image] / 2 * math.log(
        2 * math.pi * sigma**2) - math.log(2 * math.pi * joint.prior_sigma**2))       # of p itself
    # a first, coarse sum gives each needle its own width, where Gauss-Newton's metric knows that of the tip
    part = _integrate(joint, modes, sigma, modes, max(spacing, 1.0), reach)
    modes = merged(part.moved(modes).weighty())
    result = {}
    todo, spacings, reaches = torch.arange(n), torch.full((n,), spacing), torch.full((n,), reach)
    for _ in range(ROUNDS):
        again = []
        for i in todo.tolist():
            own = modes.of(i)
            part = _integrate(joint, own, sigma, own, spacings[i].item(), reaches[i].item())
            result[i] = part
            missed = _missed(joint, plane, own, i, sigma, reaches[i].item()) - part.log_p
            tail = part.tail + math.exp(min(missed, 0))
            part.error = part.lattice + tail
            if part.error > tolerance and part.n_lattice < MOST_POINTS:
                again.append(i)
                if part.lattice > tolerance / 2:
                    spacings[i] *= 0.7
                if tail > tolerance / 2:
                    reaches[i] *= 1.25
        todo = torch.tensor(again, dtype=torch.long)
        if not again:
            break
    parts = [result[i] for i in range(n)]
    best = torch.stack([part.best for part in parts])
    rounding = joint.rounding(torch.arange(n), best).abs() / (2 * sigma**2)
    stack = {name: torch.stack([getattr(part, name) for part in parts])
             for name in ("log_p", "mean", "covariance", "squared_error")}
    error = torch.tensor([part.error for part in parts], dtype=torch.float64) + rounding
    return Evidence(**stack, error=error, modes=modes)


class _Sums:
    """Weighted lattice points of some modes. With the modes of one image alone, its sums mean something."""

    def __init__(self, u, z, weight, squared_error, halves, factor, spacing, reach):
        self.u, self.z, self.weight, self.spacing, self.reach = u, z, weight, spacing, reach
        self.errors, self.halves, self.factor, self.n_lattice = squared_error, halves, factor, len(u)
        self.error = math.inf

    @property
    def log_p(self):
        return self.weight.flatten().logsumexp(0)

    @property
    def lattice(self):
        """The greatest |log of the sum over one half of the lattice - that over the other|.

        Halves are the even and the odd rows, columns and diagonals: coarser lattices of larger error.
        """
        return max((self._mass(even) - self._mass(~even)).abs().item() for even in self.halves)

    def _mass(self, places):
        return self.weight[:, places].flatten().logsumexp(0)

    @property
    def tail(self):
        """Share of the mass beyond the reach, from that of the two outermost rings, a geometric series."""
        radius = self.u.norm(dim=1)
        outer, inner = (self._mass((radius > r) & (radius <= r + 1)) - self.log_p
                        for r in (self.reach - 1, self.reach - 2))
        ratio = (outer - inner).exp().item()
        return outer.exp().item() * (ratio / (1 - ratio) if ratio < 0.5 else 1.0)

    @property
    def best(self):
        return self.z.flatten(0, 1)[self.weight.argmax()]

    def _share(self):
        return (self.weight - self.log_p).exp().flatten()

    @property
    def mean(self):
        return self._share() @ self.z.flatten(0, 1)

    @property
    def covariance(self):
        z = self.z.flatten(0, 1) - self.mean
        return (self._share()[:, None] * z).T @ z

    @property
    def squared_error(self):
        return self._share() @ self.errors.flatten()

    def moved(self, modes):
        """The modes with the masses, means and widths that the sums found."""
        log_mass = self.weight.logsumexp(1)
        share = (self.weight - log_mass[:, None]).exp()                                   # (k, m)
        mean = share @ self.u                                                             # (k, 2), in u
        centred = self.u - mean[:, None]
        covariance = torch.einsum("km,kma,kmb->kab", share, centred, centred)
        value, vector = torch.linalg.eigh(covariance)
        value = value.clamp(min=self.spacing**2 / 4)       # narrower than the lattice can tell
        factor = self.factor @ vector * value.sqrt()[:, None]
        return modes._replace(z=modes.z + (self.factor @ mean.unsqueeze(2)).squeeze(2), factor=factor,
                              log_mass=log_mass)


def _integrate(joint, modes, sigma, mixture, spacing, reach):
    """The integrand r_k p times the area of a lattice place, at the lattices of the modes -> _Sums."""
    u, halves = _lattice(spacing, reach)
    z = modes.z[:, None] + u @ modes.factor.mT                                            # (k, m, 2)
    index = modes.image.repeat_interleave(len(u))
    squared_error = joint.squared_error(index, z.flatten(0, 1))
    log_joint = joint.log_joint(squared_error, index, z.flatten(0, 1), sigma).view(len(z), -1)
    area = torch.linalg.det(modes.factor).abs().log() + 2 * math.log(spacing)
    weight = log_joint + log_share(mixture, modes.image, z) + area[:, None]
    return _Sums(u, z, weight, squared_error.view(len(z), -1), halves, modes.factor, spacing, reach)


def _lattice(spacing, reach):
    """The square lattice within a disk, (m, 2), and its even places by row, column, diagonal, (3, m)."""
    k = torch.arange(-math.floor(reach / spacing), math.floor(reach / spacing) + 1)
    places = torch.cartesian_prod(k, k)
    places = places[(places * spacing).double().norm(dim=1) <= reach]
    return places.double() * spacing, torch.stack([*places.T, places.sum(1)]) % 2 == 0


def _missed(joint, plane, modes, i, sigma, reach):
    """log of the mass of image i that its lattices do not cover, as far as the coarse grid sees it."""
    index = torch.full((len(plane.z),), i)
    log_joint = joint.log_joint(plane.squared_error[i], index, plane.z, sigma)
    logs = log_gaussians(modes, plane.z)
    radius = torch.linalg.solve(modes.factor, (plane.z[None] - modes.z[:, None]).mT).norm(dim=1)
    outside = torch.where(radius > reach, logs - logs.logsumexp(0), -math.inf).logsumexp(0)
    return (log_joint + outside).logsumexp(0).item() + math.log(plane.area)


def ml_sigma(joint, plane, z, tolerance=1e-3, rounds=30):
    """The sigma that maximises sum_i log p(I_i; sigma), and the evidence there -> sigma, Evidence.

    By the EM iteration sigma^2 <- mean over pixels of E |I - g(z)|^2, z from the posterior at the last sigma;
    in Laplace's approximation until that stands still, then with quadrature. It begins at z (n, 2), such as
    a run's latents, with the sigma of the residuals there.
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
        modes = follow_modes(joint, modes, sigma)
        if abs(sigma / last - 1) < tolerance:
            break
    for _ in range(rounds):
        evidence = log_evidence(joint, plane, modes, sigma)
        better = math.sqrt(evidence.squared_error.sum() / values)
        if abs(better / sigma - 1) < tolerance:
            break
        sigma, modes = better, follow_modes(joint, modes, better)
    return sigma, evidence


def importance(joint, modes, sigma, n_draws=128, seed=0, widen=1.5):
    """log p(I_i) by importance sampling from the mixture of the modes, their stds widened.

    Returns the estimates (n,) and their standard errors (n,), nats.
    """
    generator = torch.Generator().manual_seed(seed)
    wide = modes._replace(factor=widen * modes.factor)
    estimates, errors = [], []
    for i in modes.image.unique().tolist():
        own = wide.of(i)
        weight = (own.log_mass - own.log_mass.logsumexp(0)).exp()
        which = torch.multinomial(weight, n_draws, replacement=True, generator=generator)
        noise = torch.randn(n_draws, 2, 1, generator=generator, dtype=torch.float64)
        z = own.z[which] + (own.factor[which] @ noise).squeeze(2)
        index = torch.full((n_draws,), i)
        log_joint = joint.log_joint(joint.squared_error(index, z), index, z, sigma)
        log_ratio = log_joint - log_gaussians(own, z).logsumexp(0) + own.log_mass.logsumexp(0)
        ratio = (log_ratio - log_ratio.max()).exp()
        estimates.append(log_ratio.max() + ratio.mean().log())
        errors.append(ratio.std() / ratio.mean() / math.sqrt(n_draws))
    return torch.stack(estimates), torch.stack(errors)
