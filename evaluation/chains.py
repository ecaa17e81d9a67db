"""Chains of each sampler at a trained generator: do they mix, and do they find the modes?"""
from typing import NamedTuple

import torch

import abp
from evaluation.diagnostics import N_CHAINS, bulk_ess, moment_gaps, moments, rank_rhat
from inference.posterior import sample_gaussian_prior
from inference.samplers import TARGET_WALK, rw_mh

SAMPLERS = abp.SAMPLERS | {"rw_mh": rw_mh}
TARGETS = abp.TARGETS | {"rw_mh": TARGET_WALK}
N_DRAWS = 96                   # of the prior, from which a chain is started
STUCK_COLUMNS = ("image", "chain", "z1_start", "z2_start", "z1_end", "z2_end", "nats_above", "z1_restart",
                 "z2_restart")
STUCK = 10.0                   # nats above the best mode at which a chain counts as stuck; 1 is expected


class Run(NamedTuple):
    """N_CHAINS chains for each of m images."""
    draws: torch.Tensor        # (steps, N_CHAINS, m, 2), after adaptation
    path: torch.Tensor         # (all steps + 1, N_CHAINS, m, 2), from the starts
    energy: torch.Tensor       # (steps, N_CHAINS, m), U of the draws
    acceptance: torch.Tensor   # (N_CHAINS, m)
    step: torch.Tensor         # (N_CHAINS, m)
    passes: int                # network passes a step


def dispersed_starts(joint, index, sigma, z, seed):
    """Where chains start: at z (m, 2), and N_CHAINS - 1 times as cold chains do -> (N_CHAINS, m, 2)."""
    generator = torch.Generator().manual_seed(seed)
    posterior = joint.posterior(index, sigma)
    cold = [posterior.resample(sample_gaussian_prior(N_DRAWS, 2, joint.prior_sigma, generator))
            for _ in range(N_CHAINS - 1)]
    return torch.stack([z.float(), *cold])


def sample(joint, index, sigma, name, starts, n_adapt, n_steps, fixed_step=0.0):
    """Chains of a sampler for the images index (m,), from starts (N_CHAINS, m, 2) -> Run.

    fixed_step  a step size for all, in units of z; 0: adapted in n_adapt steps that are not counted
    """
    sampler, target, wants_metric = SAMPLERS[name], TARGETS[name], name == "smmala"
    posterior = joint.posterior(index.repeat(N_CHAINS), sigma)
    density = posterior.local if wants_metric else posterior.energy
    z, path, energy = starts.flatten(0, 1), [starts.flatten(0, 1)], []

    def record(k, state, u, probability):
        path.append(state)
        energy.append(u)

    if fixed_step:
        step, target = torch.full((len(z),), fixed_step), None
    elif wants_metric:
        step = 1.0
    else:                              # a third of the posterior's narrowest width at the start
        step = 0.3 * torch.linalg.eigvalsh(posterior.local(z)[2])[:, -1].rsqrt()
    adapted = sampler(density, z, n_adapt, step, target, callback=record)
    chains = sampler(density, adapted.z, n_steps, adapted.step, callback=record)
    path = torch.stack(path).unflatten(1, (N_CHAINS, -1))
    energy = torch.stack(energy).unflatten(1, (N_CHAINS, -1))
    return Run(path[n_adapt + 1:], path, energy[n_adapt:], chains.acceptance.view(N_CHAINS, -1),
               chains.step.view(N_CHAINS, -1), chains.passes // (n_steps + 1))


def diagnose(run, evidence, index, names, floor):
    """One row for each image: acceptance, effective samples, R-hat, moments against quadrature's.

    floor (m,) is U at the best mode of each image.
    """
    mean, covariance = moments(run.draws)
    gap, ratio = moment_gaps(evidence.mean[index], evidence.covariance[index], mean, covariance)
    ess, rhat = bulk_ess(run.draws), rank_rhat(run.draws)
    excess = run.energy.double().mean(0) - floor                                          # (N_CHAINS, m)
    per_pass = ess / (run.draws.shape[0] * N_CHAINS * run.passes)
    return [{"image": names[i], "acceptance": run.acceptance[:, k].mean().item(),
             "step": run.step[:, k].mean().item(), "ess": ess[k].item(),
             "ess_per_1000_passes": 1000 * per_pass[k].item(), "rhat": rhat[k].item(),
             "mean_gap": gap[k].item(), "std_ratio": ratio[k].item(),
             "stuck": int((excess[:, k] > STUCK).sum())} for k, i in enumerate(index.tolist())]


def stuck_chains(run, evidence, index, names, floor):
    """Chains whose mean energy is STUCK nats above the best mode, or that never moved, with where to go."""
    excess = run.energy.double().mean(0) - floor
    frozen = (run.draws == run.draws[:1]).all(0).all(2)
    best, rows = evidence.modes.z[evidence.modes.heaviest()][index], []
    for chain, k in ((excess > STUCK) | frozen).nonzero().tolist():
        start, end = run.path[0, chain, k], run.draws[-1, chain, k]
        values = (names[index[k]], chain + 1, *start.tolist(), *end.tolist(), excess[chain, k].item(),
                  *best[k].tolist())
        rows.append(dict(zip(STUCK_COLUMNS, values, strict=True)))
    return rows


def mean_rows(rows):
    """The rows of `diagnose`, each with its sampler, as one for each sampler: means over the images."""
    samplers = dict.fromkeys(row["sampler"] for row in rows)
    own = {name: [row for row in rows if row["sampler"] == name] for name in samplers}
    return [{"sampler": name} | {key: sum(float(row[key]) for row in some) / len(some)
                                 for key in some[0] if key not in ("sampler", "image")}
            for name, some in own.items()]


def floors(joint, evidence, sigma):
    """U at the heaviest mode of every image, in the precision of the chains: (n,)."""
    best = evidence.modes.heaviest()
    index = torch.arange(len(best))
    with torch.no_grad():
        return joint.posterior(index, sigma).energy(evidence.modes.z[best].float()).double()
