"""Markov chains for a density exp(-U(z)) known up to a constant, many chains at once.

Each row of z is an independent chain. A state can have any shape, such as a latent (n, d) or an
image (n, 3, S, S). Device and dtype follow z; noise comes from torch's global generator.

    langevin   unadjusted Langevin, Eq. 6 of the handout: biased
    mala       Metropolis-adjusted Langevin (Besag 1994; Roberts and Tweedie 1996)
    smmala     simplified manifold MALA (Girolami and Calderhead 2011)
    rw_mh      random-walk Metropolis, without gradient

Each chain has its own step size. With a `target` it is adapted after every step,

    log s <- log s + (age + k)^-0.6 (acceptance probability - target),   k = 1, 2, ...

(Robbins and Monro 1951; Andrieu and Thoms 2008). As the gain fades, the limit stays exp(-U); a
gain that does not fade biases it. Optimal acceptance rates in many dimensions are .574 with a
gradient (Roberts and Rosenthal 1998) and .234 without (Roberts, Gelman and Gilks 1997).

Cost is counted in network passes per chain: a forward pass, a backward pass to the state and a
tangent of forward differentiation are one each.
"""
import math
from typing import NamedTuple

import torch

TARGET_GRADIENT, TARGET_WALK = 0.574, 0.234


class Chains(NamedTuple):
    """Result of every sampler."""
    z: torch.Tensor                # (n, ...) last states, detached
    acceptance: torch.Tensor       # (n,) mean acceptance probability; nan if n_steps is 0
    step: torch.Tensor             # (n,) step sizes after the last adaptation
    passes: int                    # network passes per chain


def langevin(neg_log_density, z, n_steps, step, target=None, age=0, callback=None):
    """z <- z - s^2/2 dU/dz + s e,  e ~ N(0, I)        (unadjusted Langevin; Eq. 6 of the handout)

    neg_log_density  z (n, ...) -> U (n,), one value per chain
    z                (n, ...) starting states
    step             s, std of the noise of a step in units of z: a float, or (n,), one per chain
    target           acceptance rate to which each step size is adapted; None: step sizes are fixed
    age              number of adaptation steps before this call
    callback         called after each step as callback(k, z, U, acceptance probability), detached
    Returns Chains. Every step is taken; the acceptance is the probability with which MALA would
    have accepted, near 0 if the chain is unstable. A diverged chain is returned as inf or nan.

    Stable while s^2 lambda < 4, lambda the largest curvature of U. On a Gaussian of curvature
    lambda the stationary variance is 1 / (lambda (1 - s^2 lambda / 4)) instead of 1 / lambda.
    """
    kernel = _Langevin(neg_log_density, keep_all=True)
    return _run(kernel, 2, z, n_steps, step, target, age, callback)


def mala(neg_log_density, z, n_steps, step, target=None, age=0, callback=None):
    """The proposal of `langevin`, accepted with the Metropolis-Hastings probability; exact.

    Arguments and result as for `langevin`. Non-finite densities or gradients are rejected.
    """
    return _run(_Langevin(neg_log_density), 2, z, n_steps, step, target, age, callback)


def smmala(local, z, n_steps, step=1.0, target=None, age=0, callback=None):
    """z' ~ N(z - s^2/2 G^-1 dU/dz, s^2 G^-1), accepted with the Metropolis-Hastings probability.

    Simplified manifold MALA (Girolami and Calderhead 2011, Section 5): Langevin steps in the metric
    G(z), which scales the step by the local curvature in each direction.

    local   z (n, d) -> U (n,), dU/dz (n, d), G (n, d, d) symmetric positive definite; its cost is
            counted as a forward pass and d tangents
    step    s, dimensionless; 1 suits a nearly Gaussian density. Adapted step sizes are at most
            sqrt(2), a full Newton step, since far from the mode almost every step is accepted
    Other arguments and result as for `mala`.
    """
    cost = 1 + z.shape[1]
    return _run(_ManifoldLangevin(local), cost, z, n_steps, step, target, age, callback)


def rw_mh(neg_log_density, z, n_steps, step, target=None, age=0, callback=None):
    """z' ~ N(z, s^2 I), accepted with probability min(1, exp(U(z) - U(z'))); else as `mala`.

    Source: Metropolis et al. 1953.
    """
    return _run(_RandomWalk(neg_log_density), 1, z, n_steps, step, target, age, callback)


@torch.no_grad()
def _run(kernel, cost, z, n_steps, step, target, age, callback):
    z = z.detach()
    step = torch.as_tensor(step, dtype=z.dtype, device=z.device).expand(len(z)).clone()
    total = torch.zeros_like(step)
    state = kernel.expand(z) if n_steps else None
    for k in range(n_steps):
        s = step.view(-1, *[1] * (z.dim() - 1))
        noise = torch.randn_like(z)
        new = kernel.expand(kernel.propose(state, noise, s))
        log_ratio = kernel.log_ratio(state, new, noise, s).clamp(max=0)
        probability = torch.nan_to_num(log_ratio, nan=-math.inf).exp()
        old = state
        if kernel.keep_all:
            state = new
        else:
            state = _where(torch.rand_like(probability) < probability, new, old)
        if target is not None:
            gain = (age + k + 1) ** -0.6 * torch.isfinite(old.energy)  # 0 while U is not finite
            step = (step * (gain * (probability - target)).exp()).clamp(max=kernel.longest)
        total += probability
        if callback is not None:
            callback(k, state.z, state.energy, probability)
    return Chains(state.z if n_steps else z, total / n_steps if n_steps else total * math.nan, step,
                  (n_steps + 1) * cost if n_steps else 0)


def _where(mask, new, old):
    return type(new)(*(torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
                       for a, b in zip(new, old, strict=True)))


class _RandomWalk:
    """expand computes what a state needs, propose a new z, log_ratio the log acceptance ratio."""
    keep_all, longest = False, math.inf    # whether every step is taken; largest adapted step size

    class State(NamedTuple):
        z: torch.Tensor                # (n, ...)
        energy: torch.Tensor           # (n,), inf where it is not finite

    def __init__(self, neg_log_density):
        self.neg_log_density = neg_log_density

    def expand(self, z):
        energy = self.neg_log_density(z)
        return self.State(z, torch.where(torch.isfinite(energy), energy, math.inf))

    def propose(self, state, noise, s):
        return state.z + s * noise

    def log_ratio(self, state, new, noise, s):
        return state.energy - new.energy


class _Langevin:
    """Langevin proposals with dU/dz. The noise of the reverse step is s/2 (dU + dU') - noise."""
    longest = math.inf

    class State(NamedTuple):
        z: torch.Tensor                # (n, ...)
        energy: torch.Tensor           # (n,), inf if U or dU/dz is not finite
        grad: torch.Tensor             # (n, ...), dU/dz

    def __init__(self, neg_log_density, keep_all=False):
        self.neg_log_density, self.keep_all = neg_log_density, keep_all

    def expand(self, z):
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            energy = self.neg_log_density(z)
            (grad,) = torch.autograd.grad(energy.sum(), z)     # sum: chains stay independent
        sound = torch.isfinite(energy) & torch.isfinite(grad.flatten(1)).all(1)
        if not self.keep_all:                # without a gradient the proposal is a random walk
            grad = torch.where(sound.view(-1, *[1] * (grad.dim() - 1)), grad, 0)
        return self.State(z.detach(), torch.where(sound, energy.detach(), math.inf), grad)

    def propose(self, state, noise, s):
        return state.z - s**2 / 2 * state.grad + s * noise

    def log_ratio(self, state, new, noise, s):
        reverse = s / 2 * (state.grad + new.grad) - noise
        return state.energy - new.energy + _log_normal(reverse) - _log_normal(noise)


class _ManifoldLangevin:
    """Langevin proposals in the metric G = L L'."""
    keep_all, longest = False, math.sqrt(2)

    class State(NamedTuple):
        z: torch.Tensor                # (n, d)
        energy: torch.Tensor           # (n,), inf where not finite or G is not positive definite
        chol: torch.Tensor             # (n, d, d), L
        natural_grad: torch.Tensor     # (n, d), G^-1 dU/dz

    def __init__(self, local):
        self.local = local

    def expand(self, z):
        energy, grad, metric = self.local(z)
        sound = torch.isfinite(torch.cat([energy[:, None], grad, metric.flatten(1)], 1)).all(1)
        eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        chol, info = torch.linalg.cholesky_ex(torch.where(sound[:, None, None], metric, eye))
        sound &= info == 0
        chol = torch.where(sound[:, None, None], chol, eye)
        grad = torch.where(sound[:, None], grad, 0).unsqueeze(2)
        natural_grad = torch.cholesky_solve(grad, chol).squeeze(2)
        return self.State(z, torch.where(sound, energy, math.inf), chol, natural_grad)

    def propose(self, state, noise, s):
        return state.z + s * self._move(state, noise, s)

    def _move(self, state, noise, s):
        """(z' - z) / s = L^-T noise - s/2 G^-1 dU/dz."""
        noise = torch.linalg.solve_triangular(state.chol.mT, noise.unsqueeze(2), upper=True)
        return noise.squeeze(2) - s / 2 * state.natural_grad

    def log_ratio(self, state, new, noise, s):
        back = s / 2 * new.natural_grad - self._move(state, noise, s)
        reverse = (new.chol.mT @ back.unsqueeze(2)).squeeze(2)
        return (state.energy - new.energy + _log_normal(reverse) - _log_normal(noise)
                + _log_det(new.chol) - _log_det(state.chol))


def _log_normal(noise):
    """log N(noise; 0, I) up to a constant: (n, ...) -> (n,)."""
    return -noise.flatten(1).square().sum(1) / 2


def _log_det(chol):
    return chol.diagonal(dim1=1, dim2=2).log().sum(1)


SAMPLERS = {"langevin": langevin, "mala": mala, "smmala": smmala}
# target acceptance rates; langevin rejects nothing, so its step sizes must be small
TARGETS = {"langevin": 0.95, "mala": TARGET_GRADIENT, "smmala": TARGET_GRADIENT}
# In training the posterior keeps changing, so the adaptation gain does not fall below that of step
# 10. On N(0, I) this changes the variance at nz 1, 2, 5 by -.3, -.5, .2 % (smmala) and by -11.6,
# -4.1, 0 % (mala); a fixed step size does not.
MOST_AGE = 10
