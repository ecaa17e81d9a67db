"""The moments of chains against sums over a fine grid of the posterior."""
import torch

from inference.samplers import TARGET_GRADIENT, smmala

N_CHAINS, N_ADAPT, N_STEPS = 8, 40, 100      # chains per image; adaptation steps; counted steps


def compare(posterior, z):
    """Rows of a table, one for each image: chains of smmala from z (n, 2) against the grid.

    Gaps of means are in posterior stds, of the coordinate with the larger gap.
    """
    many, draws = posterior.of(torch.arange(len(z)).repeat(N_CHAINS)), []
    start = smmala(many.local, z.repeat(N_CHAINS, 1), N_ADAPT, 1.0, TARGET_GRADIENT)
    smmala(many.local, start.z, N_STEPS, start.step,
           callback=lambda k, state, *_: draws.append(state.double().cpu()))
    rows = []
    for i, one in enumerate(torch.stack(draws).unflatten(1, (N_CHAINS, -1)).unbind(2)):
        mean, std = grid_moments(posterior.of(torch.tensor([i])), one.flatten(0, 1))
        gaps = (one.mean(0) - mean) / std                                     # (N_CHAINS, 2)
        k = gaps.mean(0).abs().argmax()
        rows.append({"image": i, "std of z_1": std[0].item(), "std of z_2": std[1].item(),
                     "mean: chains - grid": gaps[:, k].mean().item(),
                     "standard error": gaps[:, k].std().item() / N_CHAINS**0.5,
                     "std: chains / grid": (one[..., k].std() / std[k]).item()})
    return rows


@torch.no_grad()
def grid_moments(posterior, draws, reach=5.0, points=31):
    """Mean and std (2,) of the posterior of one image by sums over a grid, in float64.

    The grid has points x points points over `reach` stds around the mean of draws (m, 2).
    """
    axis = torch.linspace(-reach, reach, points, dtype=draws.dtype)
    factor = torch.linalg.cholesky(torch.cov(draws.T))
    z = draws.mean(0) + torch.cartesian_prod(axis, axis) @ factor.T
    parts = z.to(posterior.images).split(64)
    energy = torch.cat([posterior.of([0] * len(part)).energy(part) for part in parts])
    weight = torch.softmax(-energy.double().cpu(), 0)
    mean = weight @ z
    return mean, (weight @ (z - mean).square()).sqrt()
