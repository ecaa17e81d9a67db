"""Chains of each sampler at a trained generator: mixing, and moments against quadrature's."""
import math
from typing import NamedTuple

import torch
from arviz_stats.base import array_stats

from inference import samplers
from inference.posterior import sample_gaussian_prior
from inference.samplers import TARGET_WALK, rw_mh
from runs.files import set_seed

SAMPLERS = samplers.SAMPLERS | {"rw_mh": rw_mh}
TARGETS = samplers.TARGETS | {"rw_mh": TARGET_WALK}
N_CHAINS = 4                   # for each image
N_DRAWS = 96                   # of the prior, from which a chain is started
STUCK = 10.0                   # nats above the best mode: a stuck chain; 1 is expected


class Run(NamedTuple):
    """Several chains for each of m images, on the CPU."""
    draws: torch.Tensor        # (steps, chains, m, 2), after adaptation
    energy: torch.Tensor       # (steps, chains, m), U of the draws
    acceptance: torch.Tensor   # (chains, m)
    step: torch.Tensor         # (chains, m)
    passes: int                # network passes per step


def dispersed_starts(joint, index, sigma, z, seed):
    """Starts of chains (N_CHAINS, m, 2): z (m, 2), and draws of the prior as for cold chains.

    Sets torch's global seed.
    """
    set_seed(seed)
    posterior = joint.posterior(index, sigma)
    starts = [z.float()]
    for _ in range(N_CHAINS - 1):
        draws = sample_gaussian_prior(N_DRAWS, 2, joint.prior_sigma)
        starts.append(posterior.resample(draws.to(joint.device)).cpu())
    return torch.stack(starts)


def sample(joint, index, sigma, name, starts, n_adapt, n_steps, fixed_step=0.0):
    """Chains of a sampler for the images index (m,), from starts (chains, m, 2) -> Run.

    fixed_step  step size, in units of z; 0: adapted in the n_adapt steps before the counted ones
    """
    sampler, target, wants_metric = SAMPLERS[name], TARGETS[name], name == "smmala"
    posterior = joint.posterior(index.repeat(len(starts)), sigma)
    density = posterior.local if wants_metric else posterior.energy
    z = starts.flatten(0, 1).to(joint.device)
    trace = []
    if fixed_step:
        step, target = fixed_step, None
    elif wants_metric:
        step = 1.0
    else:                              # a third of the posterior's narrowest width at the start
        step = 0.3 * torch.linalg.eigvalsh(posterior.local(z)[2])[:, -1].rsqrt()
    adapted = sampler(density, z, n_adapt, step, target)
    chains = sampler(density, adapted.z, n_steps, adapted.step,
                     callback=lambda k, state, u, probability: trace.append((state, u)))
    draws, energy = (torch.stack(values).unflatten(1, starts.shape[:2]).cpu()
                     for values in zip(*trace, strict=True))
    acceptance, step = (values.unflatten(0, starts.shape[:2]).cpu()
                        for values in (chains.acceptance, chains.step))
    return Run(draws, energy, acceptance, step, chains.passes // (n_steps + 1))


def bulk_ess(draws):
    """Bulk effective sample size (Vehtari et al. 2021), least of the d coordinates.

    draws (steps, chains, n, d) -> (n,); 0 if no chain moved.
    """
    ess = array_stats.ess(draws.double().numpy(), chain_axis=1, draw_axis=0, method="bulk")
    moved = (draws != draws[0]).any(0).any(0).any(1)
    return torch.where(moved, torch.as_tensor(ess).min(1).values, 0)


def rank_rhat(draws):
    """Rank-normalised split R-hat (Vehtari et al. 2021), greatest of the d coordinates; 1 if mixed.

    draws (steps, chains, n, d) -> (n,); inf if no chain moved.
    """
    rhat = array_stats.rhat(draws.double().numpy(), chain_axis=1, draw_axis=0, method="rank")
    return torch.nan_to_num(torch.as_tensor(rhat).max(1).values, nan=math.inf)


def diagnose(run, joint, evidence, sigma, index, names):
    """One row for each image index (m,): acceptance, effective samples, R-hat, moments.

    mean_gap, in posterior stds, and std_ratio compare with quadrature's moments, in the worst
    coordinate. mode_1 and mode_2 are the best mode. A chain is stuck if its mean U is STUCK above
    that mode.
    """
    flat = run.draws.flatten(0, 1).double()                                           # (s, m, 2)
    exact = evidence.covariance[index].diagonal(dim1=1, dim2=2).sqrt()
    gap = ((evidence.mean[index] - flat.mean(0)) / exact).abs().max(1).values
    ratio = flat.std(0, correction=0) / exact
    worst = ratio.log().abs().argmax(1, keepdim=True)
    best = evidence.modes.z[evidence.modes.heaviest()][index]
    with torch.no_grad():
        floor = joint.posterior(index, sigma).energy(best.float().to(joint.device)).double().cpu()
    ess, excess = bulk_ess(run.draws), run.energy.double().mean(0) - floor  # (chains, m)
    columns = {"acceptance": run.acceptance.mean(0), "step": run.step.mean(0), "ess": ess,
               "ess_per_1000_passes": 1000 * ess / (run.energy[..., 0].numel() * run.passes),
               "rhat": rank_rhat(run.draws), "mean_gap": gap,
               "std_ratio": ratio.gather(1, worst).squeeze(1), "stuck": (excess > STUCK).sum(0),
               "mode_1": best[:, 0], "mode_2": best[:, 1]}
    return [{"image": names[i]} | {key: values[k].item() for key, values in columns.items()}
            for k, i in enumerate(index.tolist())]
