"""Modes of many densities at once, by damped Gauss-Newton steps."""
import torch

STALLED = 1e4          # damping of steps so small that only rounding can keep U from falling


@torch.no_grad()
def refine(local, z, n_steps=20, tol=1e-4):
    """Go down U from each row of z: z' = z - (G + lambda diag G)^-1 dU/dz, kept only where U falls.

    local    local(index, z) -> U (m,), dU/dz (m, d) and G (m, d, d), symmetric positive definite, as of
             Posterior.local, at z (m, d) for the rows `index` (m,) of the whole
    z        (n, d) where the descents begin
    n_steps  most steps of a row; each is an evaluation
    tol      a row is done when it stalls, or when its squared Newton decrement dU/dz' G^-1 dU/dz is below: U
             is then about half of it above the mode's

    The damping lambda of Levenberg and Marquardt (Marquardt 1963) is each row's own: it falls tenfold after a
    step that was kept and grows fivefold after another. Gauss-Newton's G = J'J / sigma^2 + I / prior_sigma^2
    leaves out the curvature of the generator itself, for which the damping makes up. Steps to where U or
    its derivatives are not finite are not kept; a row that begins there stays.
    Returns z (n, d), U (n,), dU/dz (n, d), G (n, d, d) at the end, in the dtype of z.
    """
    index = torch.arange(len(z), device=z.device)
    z = z.clone()
    energy, grad, metric = (values.clone() for values in local(index, z))
    damping = torch.ones_like(energy)
    for _ in range(n_steps):
        far = _decrement(grad[index], metric[index]) >= tol                # nan, too, is done
        index = index[far & (damping[index] < STALLED)]
        if not len(index):
            break
        diagonal = torch.diag_embed(metric[index].diagonal(dim1=1, dim2=2))
        new = z[index] - _solve(metric[index] + damping[index, None, None] * diagonal, grad[index])
        values = local(index, new)
        falls = (values[0] < energy[index]) & torch.isfinite(torch.cat(
            [values[1], values[2].flatten(1)], 1)).all(1)
        kept = index[falls]
        for old, value in zip((z, energy, grad, metric), (new, *values), strict=True):
            old[kept] = value[falls]
        damping[index] *= torch.where(falls, 0.1, 5.0)
    return z, energy, grad, metric


def _decrement(grad, metric):
    return (grad * _solve(metric, grad)).sum(1)


def _solve(metric, grad):
    """G^-1 g, in float64: a narrow posterior's metric is ill conditioned.  (n, d, d), (n, d) -> (n, d)."""
    move, _ = torch.linalg.solve_ex(metric.double(), grad.double().unsqueeze(2))     # of nan: nan, no error
    return move.squeeze(2).to(grad.dtype)
