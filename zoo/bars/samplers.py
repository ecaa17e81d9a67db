"""The project's own samplers (samplers.py), held to densities whose answers are known.

On N(0, 1), where theta = s^2 / 4 for a step s:

    Langevin   stationary variance 1 / (1 - theta), from its autoregression z' = (1 - s^2/2) z + s e
    MALA       variance 1; log acceptance ratio s^2/8 (z^2 - z'^2), since all but theta of U cancels

The controls are the same kernels with their acceptance ratio broken in the two ways in which it often is, and
the same chains with rejected steps left out of the average.
"""
import math

import torch

from inference import samplers
from inference.posterior import Posterior, frozen
from inference.samplers import TARGET_GRADIENT, TARGET_WALK, langevin, mala, rw_mh, smmala
from models import GenNet
from zoo.core import Check
from zoo.datasets import Mixture
from zoo.metrics import square, total_variation

STEPS = (0.5, 1.0, 1.5)
N_CHAINS, BURN, KEPT = 30_000, 40, 50          # on N(0, 1)
SIGMA = 2.0                                    # of a pixel, where the posterior of a generator is sampled


class _NoProposalRatio(samplers._Langevin):
    """MALA without q(z | z') / q(z' | z)."""

    def log_ratio(self, state, new, noise, s):
        return state.energy - new.energy


class _SwappedProposalRatio(samplers._Langevin):
    """MALA with q(z' | z) / q(z | z'), upside down."""

    def log_ratio(self, state, new, noise, s):
        energies = state.energy - new.energy
        return 2 * energies - super().log_ratio(state, new, noise, s)


class _NoDeterminants(samplers._ManifoldLangevin):
    """Simplified manifold MALA without the determinants of the metric."""

    def log_ratio(self, state, new, noise, s):
        determinants = samplers._log_det(new.chol) - samplers._log_det(state.chol)
        return super().log_ratio(state, new, noise, s) - determinants


def _broken(kernel):
    """A sampler like `mala` or `smmala` with a broken kernel."""
    def sampler(density, z, n_steps, step, target=None, age=0, callback=None):
        return samplers._run(kernel(density), z, n_steps, step, target, age, callback)
    return sampler


def normal(z):
    """U of N(0, I): (n, d) -> (n,)."""
    return z.square().sum(1) / 2


def curved(z):
    """N(0, 1) with a metric that has nothing to do with it, G(z) = 1 + z^2: U, dU/dz and G at z (n, 1)."""
    return normal(z), z, (1 + z.square()).unsqueeze(2)


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """Variances on N(0, 1), the acceptance of MALA, and a mixture that chains must cross."""
    return [*_variances(), *_acceptances(), *_crossing()]


def _states(sampler, density, z, step, burn, kept, moves_only=False):
    """The states of the last `kept` steps of chains from z (n, d) -> (m, d).

    moves_only leaves out the states after a rejection: what no average may do.
    """
    states, before = [], [z]

    def keep(k, z, energy, probability):
        if k >= burn:
            states.append(z[(z != before[0]).any(1)] if moves_only else z)
        before[0] = z

    sampler(density, z, burn + kept, step, callback=keep)
    return torch.cat(states)


def _variances():
    start = torch.randn(N_CHAINS, 1)

    def variance(sampler, step, density=normal, **kwargs):
        return _states(sampler, density, start, step, BURN, KEPT, **kwargs).square().mean().item()

    checks = []
    for s in STEPS:
        biased, fair = variance(langevin, s), variance(mala, s)
        theory = 1 / (1 - s**2 / 4)
        checks += [
            Check(f"Langevin, s = {s}: variance on N(0, 1) / that of theory", biased / theory, 0.98, 1.02,
                  "1 / (1 - s^2/4), an autoregression", {"MALA": fair / theory}),
            Check(f"MALA, s = {s}: variance on N(0, 1)", fair, 0.98, 1.02, "exact",
                  {"q ratio dropped": variance(_broken(_NoProposalRatio), s),
                   "q ratio swapped": variance(_broken(_SwappedProposalRatio), s), "Langevin": biased}),
        ]
    return checks + [
        Check("random walk, s = 2.4: variance on N(0, 1)", variance(rw_mh, 2.4), 0.98, 1.02, "exact",
              {"rejected steps not counted": variance(rw_mh, 2.4, moves_only=True)}),
        Check("manifold MALA, metric 1 + z^2: variance on N(0, 1)", variance(smmala, 1.0, curved), 0.98, 1.02,
              "exact, whatever the metric",
              {"determinants dropped": variance(_broken(_NoDeterminants), 1.0, curved)}),
    ]


def _acceptances():
    """The acceptance of MALA on N(0, 1) against its integral over z and the noise, by the midpoint rule."""
    grid = square(8.0, 400)
    z, noise = grid.z.T
    density = (-(z.square() + noise.square()) / 2).exp() / (2 * math.pi) * grid.area
    checks = []
    for s in STEPS:
        moved = (1 - s**2 / 2) * z + s * noise
        ratio = s**2 / 8 * (z.square() - moved.square())
        theory = (density * ratio.clamp(max=0).exp()).sum().item()
        start = torch.randn(N_CHAINS, 1)
        found, broken = (sampler(normal, start, 20, s).acceptance.mean().item()
                         for sampler in (mala, _broken(_NoProposalRatio)))
        checks.append(Check(
            f"MALA, s = {s}: mean acceptance less that of theory", found - theory, -0.005, 0.005,
            f"E min(1, exp(s^2/8 (z^2 - z'^2))) = {theory:.4f}, by quadrature",
            {"q ratio dropped": broken - theory}))
    return checks


def _crossing(n=2000, burn=400, kept=100):
    """Chains that all begin in one mode of two: steps are tuned, then n * kept states are compared."""
    world, grid = Mixture([[-1.5, 0.0], [1.5, 0.5]], 0.8), square(5.0, 25)
    mass = grid.masses(world.log_prob)
    free = total_variation(grid.histogram(world.sample(n * kept)), mass)
    start = world.centres[:1] + world.sd * torch.randn(n, 2)

    def distance(sampler, step):
        return total_variation(grid.histogram(_states(sampler, world.energy, start, step, burn, kept)), mass)

    checks = []
    for name, sampler, target, controls in (
            ("MALA", mala, TARGET_GRADIENT,
             {"q ratio dropped": _broken(_NoProposalRatio), "Langevin": langevin}),
            ("random walk", rw_mh, TARGET_WALK, {})):
        tuned = sampler(world.energy, start, 200, 1.0, target).step.median().item()
        accepted = sampler(world.energy, start, burn, tuned).acceptance.mean().item()
        still = total_variation(grid.histogram(start), mass)
        checks += [
            Check(f"{name}: acceptance at the tuned step", accepted, target - 0.05, target + 0.05,
                  f"the target is {target}; tuned s = {tuned:.2f}",
                  {"s halved": sampler(world.energy, start, burn, tuned / 2).acceptance.mean().item()}),
            Check(f"{name}: TV to a two-mode mixture, all chains begin in one", distance(sampler, tuned),
                  hi=0.05, source=f"chosen; independent draws give {free:.3f}",
                  controls={label: distance(broken, tuned) for label, broken in controls.items()}
                  | {"the start": still}),
        ]
    return checks


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0):
    """Where the tuning targets come from, in 100 dimensions; and the posteriors of a generator."""
    return [*_best_acceptance(), *_posteriors()]


def _best_acceptance(d=100, n=10_000):
    """The acceptance at which chains on N(0, I_d) move furthest (mean squared jump), among 40 step sizes."""
    start = torch.randn(n, d)                                              # already stationary

    def best(sampler, steps):
        found = []
        for step in steps.tolist():
            chains = sampler(normal, start, 1, step)
            found.append(((chains.z - start).square().sum(1).mean().item(), chains.acceptance.mean().item()))
        return max(found)[1]

    gradient = best(mala, torch.linspace(0.3, 1.2, 40))
    walk = best(rw_mh, torch.linspace(0.1, 0.5, 40))
    return [
        Check("MALA: acceptance at the step that moves furthest, d = 100", gradient, TARGET_GRADIENT - 0.08,
              TARGET_GRADIENT + 0.08, "Roberts and Rosenthal 1998: .574 as d grows", {"random walk": walk}),
        Check("random walk: acceptance at the step that moves furthest, d = 100", walk, TARGET_WALK - 0.06,
              TARGET_WALK + 0.06, "Roberts, Gelman and Gilks 1997: .234 as d grows", {"MALA": gradient}),
    ]


def _posteriors(n=300, burn=40, kept=120):
    """p(z | I) of a random generator: 36,000 states of each sampler against the posterior on a grid.

    Chains begin as those of a cold start do, at draws of the prior that were chosen by their likelihood.
    """
    net = frozen(GenNet(2, 16, hidden=64, width=4))
    with torch.no_grad():
        image = net(torch.randn(1, 2)) + 0.1 * torch.randn(1, 3, 16, 16)
    posterior, grid = Posterior(net, image.expand(n, -1, -1, -1), SIGMA), square(4.5, 15)
    one = Posterior(net, image, SIGMA)
    mass = grid.masses(lambda z: -torch.cat([one.energy(part.float()) for part in z.split(1000)]).double())
    start = posterior.resample(torch.randn(2048, 2))

    free = total_variation(grid.histogram(grid.draw(mass, n * kept)), mass)
    prior = total_variation(grid.histogram(torch.randn(n * kept, 2)), mass)

    def distance(sampler, density, step):
        return total_variation(grid.histogram(_states(sampler, density, start, step, burn, kept)), mass)

    checks = []
    for name, sampler, density, target, controls in (
            ("manifold MALA", smmala, posterior.local, TARGET_GRADIENT, {}),
            ("MALA", mala, posterior.energy, TARGET_GRADIENT, {"q ratio dropped": _broken(_NoProposalRatio)}),
            ("random walk", rw_mh, posterior.energy, TARGET_WALK, {})):
        step = sampler(density, start, 60, 0.3, target).step.median().item()
        checks.append(Check(
            f"{name}: TV to p(z | I) of a generator", distance(sampler, density, step), hi=0.05,
            source=f"chosen; independent draws give {free:.3f}; tuned s = {step:.2f}",
            controls={label: distance(broken, density, step) for label, broken in controls.items()}
            | {"the prior": prior}))
    return checks
