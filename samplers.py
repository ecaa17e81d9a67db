"""Markov chains for a density exp(-U(z)) known up to a constant: pure functions, many chains at once.

Each row of z is a chain of its own, and chains never mix. Device and dtype follow z; noise comes from torch's
global generator.
"""
import math
from typing import NamedTuple

import torch


def langevin(neg_log_density, z, n_steps, s, callback=None):
    """z <- z - s^2/2 dU/dz + s e,  e ~ N(0, I)        (unadjusted Langevin; Eq. 6 of the handout)

    neg_log_density  z (n, d) -> U (n,), one value per chain
    z                (n, d) starting states
    s                step size in units of z, the std of each step's noise: a float, or (n, 1), one per chain
    callback         called as callback(step, z, U, dU/dz), all detached, before each step and after the last
    Returns (n, d), detached. A diverging chain is returned as it is, inf or nan: the caller checks.

    Stable only while s^2 lambda < 4, lambda the largest curvature of U. On a Gaussian of curvature lambda the
    stationary variance is 1 / (lambda (1 - s^2 lambda / 4)) instead of 1 / lambda.
    """
    z = z.detach()
    for step in range(n_steps):
        energy, grad = _energy_and_grad(neg_log_density, z)
        if callback is not None:
            callback(step, z, energy, grad)
        z = z - s**2 / 2 * grad + s * torch.randn_like(z)
    if callback is not None:
        callback(n_steps, z, *_energy_and_grad(neg_log_density, z))
    return z


def _energy_and_grad(neg_log_density, z):
    z = z.detach().requires_grad_(True)
    energy = neg_log_density(z)
    (grad,) = torch.autograd.grad(energy.sum(), z)        # sum, not mean: each chain keeps its own gradient
    return energy.detach(), grad


def langevin_acceptance(z, energy, grad, z_new, energy_new, grad_new, s):
    """min(1, exp(-U(z')) q(z | z') / exp(-U(z)) q(z' | z)) of one step of `langevin` from z to z'.

    What a Metropolis test would say of the step: near 1 where s is small enough for Eq. 6 to sample the
    density, near 0 where the chain has become unstable. z (n, d), energies (n,), gradients (n, d), s as in
    `langevin`. Returns (n,), 0 where the ratio is not a number.
    """
    forward = (z_new - z + s**2 / 2 * grad).square().sum(1, keepdim=True) / (2 * s**2)
    backward = (z - z_new + s**2 / 2 * grad_new).square().sum(1, keepdim=True) / (2 * s**2)
    return _acceptance((energy - energy_new) + (forward - backward).squeeze(1))


def smmala(local, z, n_steps, step=1.0, callback=None):
    """z' ~ N(z - step^2/2 G^-1 dU/dz, step^2 G^-1), accepted with the Metropolis-Hastings probability.

    Simplified manifold MALA (Girolami and Calderhead 2011, Section 5): Langevin steps in the metric G(z),
    which fits the step to the curvature of each chain in each direction; the accept step keeps exp(-U)
    exactly invariant.

    local     z (n, d) -> U (n,), dU/dz (n, d), G (n, d, d) symmetric positive definite
    z         (n, d) starting states
    step      dimensionless; 1 suits a density that is nearly Gaussian at the scale of its own width
    callback  called after each step as callback(step, z, U, dU/dz, acceptance probability (n,))
    Returns z (n, d), the mean acceptance probability of each chain (n,), and the metric at z (n, d, d).
    A proposal whose density is not finite is rejected.
    """
    state = _expand(local, z.detach())
    total = torch.zeros_like(state.energy)
    for k in range(n_steps):
        white = torch.randn_like(state.z).unsqueeze(2)
        noise = torch.linalg.solve_triangular(state.chol.mT, white, upper=True)
        new = _expand(local, state.z - step**2 / 2 * state.natural_grad + step * noise.squeeze(2))
        probability = _acceptance(state.energy - new.energy
                                  + _log_proposal(new, state.z, step) - _log_proposal(state, new.z, step))
        state = _where(torch.rand_like(probability) < probability, new, state)
        total += probability
        if callback is not None:
            callback(k, state.z, state.energy, state.grad, probability)
    return state.z, total / max(1, n_steps), state.metric


class _Expansion(NamedTuple):
    """Chains with all that a Langevin proposal in the metric G = L L' needs."""
    z: torch.Tensor                # (n, d)
    energy: torch.Tensor           # (n,), inf where anything is not finite or G is not positive definite
    grad: torch.Tensor             # (n, d)
    metric: torch.Tensor           # (n, d, d)
    chol: torch.Tensor             # (n, d, d), L
    natural_grad: torch.Tensor     # (n, d), G^-1 dU/dz


def _expand(local, z):
    energy, grad, metric = local(z)
    sound = torch.isfinite(energy) & torch.isfinite(grad).all(1) & torch.isfinite(metric).flatten(1).all(1)
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    chol, info = torch.linalg.cholesky_ex(torch.where(sound[:, None, None], metric, eye))
    sound &= info == 0
    chol = torch.where(sound[:, None, None], chol, eye)
    natural_grad = torch.cholesky_solve(torch.where(sound[:, None], grad, 0).unsqueeze(2), chol).squeeze(2)
    return _Expansion(z, torch.where(sound, energy, math.inf), grad, metric, chol, natural_grad)


def _log_proposal(at, to, step):
    """log q(to | at) up to a constant: (n, d) -> (n,)."""
    white = (at.chol.mT @ (to - at.z + step**2 / 2 * at.natural_grad).unsqueeze(2)).squeeze(2)
    return at.chol.diagonal(dim1=1, dim2=2).log().sum(1) - white.square().sum(1) / (2 * step**2)


def _acceptance(log_ratio):
    return torch.nan_to_num(log_ratio.clamp(max=0), nan=-math.inf).exp()


def _where(mask, new, old):
    return _Expansion(*(torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
                        for a, b in zip(new, old, strict=True)))
