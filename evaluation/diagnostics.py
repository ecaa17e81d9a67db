"""Do the chains sample the posterior, and at what price: effective samples, moments against a grid."""
import math

import torch

from inference.samplers import TARGET_GRADIENT, TARGET_WALK, langevin, mala, rw_mh, smmala

N_CHAINS = 4           # for each image
N_ADAPT = 60           # steps in which step sizes are adapted and which are then thrown away


def draw(sampler, density, z, n_steps, step):
    """Chains from z (N_CHAINS n, d), those of an image n rows apart.

    Returns states (n_steps, N_CHAINS, n, d), acceptance (N_CHAINS n,), passes a step.
    """
    draws = []
    chains = sampler(density, z, n_steps, step, callback=lambda k, state, *_: draws.append(state))
    draws = torch.stack(draws).unflatten(1, (N_CHAINS, -1))
    return draws, chains.acceptance, chains.passes / (n_steps + 1)


def bulk_ess(draws):
    """Rank-normalised bulk effective sample size (Vehtari et al. 2021): the least of the d coordinates.

    draws (steps, chains, n, d) -> (n,); 0 where no chain ever moved.
    """
    ess = _array_stats().ess(_for_arviz(draws), chain_axis=0, draw_axis=1, method="bulk")
    moved = (draws != draws[0]).any(0).any(0).any(1)
    return torch.where(moved, torch.as_tensor(ess).min(1).values, 0)


def rank_rhat(draws):
    """Rank-normalised split R-hat (Vehtari et al. 2021): greatest of the d coordinates; inf if none moved.

    draws (steps, chains, n, d) -> (n,). 1 where the chains agree; above 1.01 they have not mixed yet.
    """
    rhat = _array_stats().rhat(_for_arviz(draws), chain_axis=0, draw_axis=1, method="rank")
    return torch.nan_to_num(torch.as_tensor(rhat).max(1).values, nan=math.inf)


def _for_arviz(draws):
    return draws.movedim(0, 1).double().numpy()


def _array_stats():
    """ArviZ, imported where it is needed: that takes half a second."""
    from arviz_stats.base import array_stats

    return array_stats


def effective_samples(posterior, z, n_steps):
    """Every sampler on the posterior of n images, N_CHAINS chains each from z (n, d): rows of a table.

    Eq. 6 has one step size for all images: the largest that MALA, adapted to .574, takes on every one. All
    chains of an image start from the same z, so a mode that none of them finds is not missed.
    Returns the rows, and where smmala's chains ended with the step sizes that it adapted.
    """
    many, start = _repeated(posterior), z.repeat(N_CHAINS, 1)
    first = 0.3 * _width(posterior, z).repeat(N_CHAINS)
    adapted = {}
    for name, sampler, density, target, step in (
            ("rw_mh", rw_mh, many.energy, TARGET_WALK, first),
            ("mala", mala, many.energy, TARGET_GRADIENT, first),
            ("smmala", smmala, many.local, TARGET_GRADIENT, 1.0)):
        chains = sampler(density, start, N_ADAPT, step, target)
        step = chains.step.view(N_CHAINS, -1).log().mean(0).exp().repeat(N_CHAINS)     # one for each image
        adapted[name] = sampler, density, chains.z, step
    _, energy, state, step = adapted["mala"]
    adapted = {"langevin, Eq. 6, one step size": (langevin, energy, state, step.min().expand_as(step)),
               "langevin, a step size for each image": (langevin, energy, state, step)} | adapted
    rows, base, ends = [], None, {}
    for name, (sampler, density, state, step) in adapted.items():
        draws, acceptance, passes = draw(sampler, density, state, n_steps, step)
        per_pass = bulk_ess(draws) / (N_CHAINS * n_steps * passes)
        base = per_pass.median() if base is None else base
        rows.append([name, f"{step.median():.3g}", f"{acceptance.mean():.2f}", f"{passes:.0f}",
                     f"{1000 * per_pass.median():.2f}", f"{1000 * per_pass.min():.2f}",
                     f"{per_pass.median() / base:.1f}"])
        ends[name] = draws[-1].flatten(0, 1), step
    return rows, ends["smmala"]


def smmala_draws(posterior, z, step, n_steps):
    """Draws of smmala (n_steps, N_CHAINS, n, d) from where `effective_samples` left its chains."""
    return draw(smmala, _repeated(posterior).local, z, n_steps, step)[0]


def _repeated(posterior):
    return posterior.of(torch.arange(len(posterior.images)).repeat(N_CHAINS))


def _width(posterior, z):
    """Std of the posterior along its narrowest direction, by the metric at z: (n, d) -> (n,)."""
    return torch.linalg.eigvalsh(posterior.local(z)[2])[:, -1].rsqrt()


@torch.no_grad()
def grid_moments(posterior, centre, scale, reach=5.0, cells=31):
    """Mean (n, 2) and covariance (n, 2, 2) of a posterior in two dimensions, by sums over a fine grid.

    The grid of image i is centre_i + scale_i u, u in (-reach, reach)^2, cells a side; scale (n, 2, 2) is a
    factor of the covariance expected there. What lies beyond it is not seen. float64 sums.
    """
    axis = torch.linspace(-reach, reach, cells)
    u = torch.cartesian_prod(axis, axis)
    means, covariances = [], []
    for i, (middle, factor) in enumerate(zip(centre, scale, strict=True)):
        points = middle + u @ factor.T
        energy = torch.cat([posterior.of(torch.full((len(part),), i)).energy(part)
                            for part in points.split(64)])
        weight = torch.softmax(-energy.double(), 0)
        points = points.double()
        mean = weight @ points
        means.append(mean)
        covariances.append((weight[:, None] * (points - mean)).T @ (points - mean))
    return torch.stack(means), torch.stack(covariances)


def moments(draws):
    """Mean (n, d) and covariance (n, d, d) of draws (steps, chains, n, d), in float64."""
    flat = draws.flatten(0, 1).double()
    centred = flat - flat.mean(0)
    return flat.mean(0), torch.einsum("sna,snb->nab", centred, centred) / len(flat)


def moment_gaps(mean, covariance, other_mean, other_covariance):
    """|mean - other| in stds of `covariance`, and the ratio of stds: each image's worst coordinate, (n,)."""
    std = covariance.diagonal(dim1=1, dim2=2).sqrt()
    ratio = other_covariance.diagonal(dim1=1, dim2=2).sqrt() / std
    worst = ratio.log().abs().argmax(1, keepdim=True)
    return ((mean - other_mean) / std).abs().max(1).values, ratio.gather(1, worst).squeeze(1)


def compare_with_grid(posterior, exact, draws):
    """Chain moments, and the grid's own in float32, against a fine grid of the posterior: rows of a table.

    posterior is in the precision of the chains, exact the same in float32.
    """
    mean, covariance = moments(draws)
    factor = torch.linalg.cholesky(covariance)
    grid = grid_moments(posterior, mean.float(), factor.float())
    grid32 = grid_moments(exact, mean.float(), factor.float())
    chain_gap, chain_ratio = moment_gaps(*grid, mean, covariance)
    float_gap, float_ratio = moment_gaps(*grid, *grid32)
    std = grid[1].diagonal(dim1=1, dim2=2).sqrt()
    ess = bulk_ess(draws)
    columns = (*std.T, ess, chain_gap, ess.rsqrt(), chain_ratio, float_gap, float_ratio)
    forms = (".4f", ".4f", ".0f", ".3f", ".3f", ".3f", ".3f", ".3f")
    return [[i, *(format(column[i].item(), form) for column, form in zip(columns, forms, strict=True))]
            for i in range(len(std))]
