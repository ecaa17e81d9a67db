"""Markov chains for a density exp(-U(z)) known up to a constant: pure functions, many chains at once.

Each row of z is a chain of its own, and chains never mix. A state may be a latent (n, d), an image
(n, 3, S, S) or anything else; device and dtype follow z, noise comes from torch's global generator.

    langevin   unadjusted Langevin, Eq. 6 of the handout                            biased
    mala       the same proposal with a Metropolis-Hastings test (Besag 1994; Roberts and Tweedie 1996)
    smmala     MALA in a metric (Girolami and Calderhead 2011)
    rw_mh      random-walk Metropolis, no gradient

Step sizes are per chain. With a `target` each is adapted after every step,

    log s <- log s + (age + k)^-0.6 (acceptance probability - target),   k = 1, 2, ...

(Robbins and Monro; Andrieu and Thoms 2008): the gains fade, so that the limit is still exp(-U). Theory's
targets for many dimensions are .574 with a gradient (Roberts and Rosenthal 1998) and .234 without one
(Roberts, Gelman and Gilks 1997).

The cost is counted in network passes per chain: a forward pass is one, so are a backward pass to the state
and a tangent of forward differentiation.
"""
import math
from typing import NamedTuple

import torch

TARGET_GRADIENT, TARGET_WALK = 0.574, 0.234


class Chains(NamedTuple):
    """What every sampler returns."""
    z: torch.Tensor                # (n, ...) states, detached
    acceptance: torch.Tensor       # (n,) mean acceptance probability; nan after no step
    step: torch.Tensor             # (n,) step sizes, after the last adaptation
    passes: int                    # network passes per chain


def langevin(neg_log_density, z, n_steps, step, target=None, age=0, callback=None):
    """z <- z - s^2/2 dU/dz + s e,  e ~ N(0, I)        (unadjusted Langevin; Eq. 6 of the handout)

    neg_log_density  z (n, ...) -> U (n,), one value per chain
    z                (n, ...) starting states
    step             s, std of each step's noise, in units of z: a float, or (n,), one per chain
    target, age      acceptance at which to keep each step size, and the steps adapted before; None: fixed
    callback         called after each step as callback(k, z, U, acceptance probability (n,)), all detached
    Returns Chains; every step is taken, and the acceptance is what a Metropolis test would have said: near 1
    where s is small enough, near 0 where the chain has become unstable. A diverging chain is returned as it
    is, inf or nan: the caller checks.

    Stable only while s^2 lambda < 4, lambda the largest curvature of U. On a Gaussian of curvature lambda the
    stationary variance is 1 / (lambda (1 - s^2 lambda / 4)) instead of 1 / lambda.
    """
    kernel = _Langevin(neg_log_density, keep_all=True)
    return _run(kernel, z, n_steps, step, target, age, callback)


def mala(neg_log_density, z, n_steps, step, target=None, age=0, callback=None):
    """The proposal of `langevin`, accepted with the Metropolis-Hastings probability: exp(-U) is exact.

    Arguments and result as of `langevin`. A proposal whose density or gradient is not finite is rejected.
    """
    return _run(_Langevin(neg_log_density), z, n_steps, step, target, age, callback)


def smmala(local, z, n_steps, step=1.0, target=None, age=0, callback=None):
    """z' ~ N(z - s^2/2 G^-1 dU/dz, s^2 G^-1), accepted with the Metropolis-Hastings probability.

    Simplified manifold MALA (Girolami and Calderhead 2011, Section 5): Langevin steps in the metric G(z),
    which fits the step to the curvature of each chain in each direction.

    local   z (n, d) -> U (n,), dU/dz (n, d), G (n, d, d) symmetric positive definite; for the passes it is
            taken to cost a forward pass and d tangents
    step    s, dimensionless; 1 suits a density that is nearly Gaussian at the scale of its own width. Adapted
            steps stop at sqrt(2), a full Newton step: a chain on its way to the mode accepts more, and would
            learn to overshoot
    The rest as of `mala`.
    """
    return _run(_ManifoldLangevin(local), z, n_steps, step, target, age, callback)


def rw_mh(neg_log_density, z, n_steps, step, target=None, age=0, callback=None):
    """z' ~ N(z, s^2 I), accepted with probability min(1, exp(U(z) - U(z'))) (Metropolis et al. 1953).

    Arguments and result as of `mala`.
    """
    return _run(_RandomWalk(neg_log_density), z, n_steps, step, target, age, callback)


@torch.no_grad()
def _run(kernel, z, n_steps, step, target, age, callback):
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
        state = new if kernel.keep_all else _where(torch.rand_like(probability) < probability, new, old)
        if target is not None:
            gain = (age + k + 1) ** -0.6 * torch.isfinite(old.energy)        # a bad start teaches nothing
            step = (step * (gain * (probability - target)).exp()).clamp(max=kernel.longest)
        total += probability
        if callback is not None:
            callback(k, state.z, state.energy, probability)
    return Chains(state.z if n_steps else z, total / n_steps if n_steps else total * math.nan, step,
                  (n_steps + 1) * kernel.cost(z) if n_steps else 0)


def _where(mask, new, old):
    return type(new)(*(torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
                       for a, b in zip(new, old, strict=True)))


class _RandomWalk:
    """A kernel: how to expand a state, propose from it, and weigh the proposal. `noise` is the white one."""
    keep_all, longest = False, math.inf      # whether every step is taken; the longest that adaptation allows

    class State(NamedTuple):
        z: torch.Tensor                # (n, ...)
        energy: torch.Tensor           # (n,), inf where it is not finite

    def __init__(self, neg_log_density):
        self.neg_log_density = neg_log_density

    def cost(self, z):
        return 1

    def expand(self, z):
        energy = self.neg_log_density(z)
        return self.State(z, torch.where(torch.isfinite(energy), energy, math.inf))

    def propose(self, state, noise, s):
        return state.z + s * noise

    def log_ratio(self, state, new, noise, s):
        return state.energy - new.energy


class _Langevin:
    """Langevin proposals with the gradient of U. The reverse step needs the noise s/2 (dU + dU') - noise."""
    longest = math.inf

    class State(NamedTuple):
        z: torch.Tensor                # (n, ...)
        energy: torch.Tensor           # (n,), inf where anything is not finite
        grad: torch.Tensor             # (n, ...), dU/dz

    def __init__(self, neg_log_density, keep_all=False):
        self.neg_log_density, self.keep_all = neg_log_density, keep_all

    def cost(self, z):
        return 2

    def expand(self, z):
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            energy = self.neg_log_density(z)
            (grad,) = torch.autograd.grad(energy.sum(), z)     # sum, not mean: each chain keeps its own
        sound = torch.isfinite(energy) & torch.isfinite(grad.flatten(1)).all(1)
        if not self.keep_all:                # a start without a gradient proposes at random around itself
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
        energy: torch.Tensor           # (n,), inf where anything is not finite or G is not positive definite
        chol: torch.Tensor             # (n, d, d), L
        natural_grad: torch.Tensor     # (n, d), G^-1 dU/dz

    def __init__(self, local):
        self.local = local

    def cost(self, z):
        return 1 + z.shape[1]

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
        colour = torch.linalg.solve_triangular(state.chol.mT, noise.unsqueeze(2), upper=True).squeeze(2)
        return colour - s / 2 * state.natural_grad

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
