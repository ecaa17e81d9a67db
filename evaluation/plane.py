"""The latent plane of a trained generator: the images' latents, stretch and tears, samples."""
import math

import torch
from scipy import stats

from evaluation.modes import midpoints
from inference.measures import psnr
from inference.posterior import jacobian, squared_distances

DISK = 0.95                    # fraction of the prior in the disk whose latents count as inside
TEAR_LINES, TEAR_POINTS, TEAR_RADIUS = 24, 60, 2.0


def latents(z, names, prior_sigma):
    """Latents z (n, 2) against the prior: rows of a table, and a dict for start.QUANTITIES.

    z_square is |z|^2 / prior_sigma^2, on the prior chi^2 with 2 degrees of freedom.
    """
    square = (z.double() / prior_sigma).square().sum(1)
    inside, test = square <= stats.chi2.ppf(DISK, 2), stats.kstest(square.numpy(), "chi2", (2,))
    rows = [{"image": name, "z_1": z_1, "z_2": z_2, "z_square": s, "inside": "yes" if i else "no"}
            for name, (z_1, z_2), s, i in zip(names, z.tolist(), square.tolist(), inside.tolist(),
                                              strict=True)]
    return rows, {"inside": inside.double().mean().item(), "ks": float(test.statistic),
                  "ks_p": float(test.pvalue)}


@torch.no_grad()
def stretch(net, reach, cells):
    """log10 of the area by which g stretches the plane, sqrt(det J'J), J = dg/dz; at least -12.

    At cells x cells midpoints of (-reach, reach)^2 -> (cells, cells) on the CPU, rows from the
    lowest z_2. Where it is far above its surroundings, the generator tears.
    """
    z = midpoints(reach, cells).float().to(next(net.parameters()).device)
    area = []
    for part in z.split(64):
        tangents = jacobian(net, part)[1].flatten(2).transpose(0, 1)
        square = torch.linalg.det((tangents @ tangents.mT).double())
        area.append(square.clamp(min=1e-24).log10().cpu() / 2)
    return torch.cat(area).view(cells, cells).T


@torch.no_grad()
def tears(net, prior_sigma):
    """95th percentile over median of |g(z_k+1) - g(z_k)| / |z_k+1 - z_k|; None if that is 0.

    Along straight lines within 2 prior_sigma. Smooth generators have values below 4.
    """
    device, generator = next(net.parameters()).device, torch.Generator().manual_seed(0)
    turn, square = torch.rand(2, TEAR_LINES, 2, generator=generator)     # uniform in the disk
    angle, radius = 2 * math.pi * turn, TEAR_RADIUS * prior_sigma * square.sqrt()
    ends = torch.stack([radius * angle.cos(), radius * angle.sin()], 2)
    t = torch.linspace(0, 1, TEAR_POINTS).view(1, -1, 1)
    z = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * t  # (lines, points, 2)
    steps = []
    for line in z.to(device):
        images = net(line).flatten(1)
        steps.append((images[1:] - images[:-1]).norm(dim=1) / (line[1:] - line[:-1]).norm(dim=1))
    steps = torch.cat(steps)
    median, p95 = steps.median().item(), steps.quantile(0.95).item()
    return p95 / median if median else None


def nearest(samples, images, names):
    """The training image nearest to each random sample: rows, and indices of images (m,)."""
    place = torch.cat([squared_distances(samples, x) for x in images.split(256)], 1).argmin(1)
    rows = [{"sample": k + 1, "nearest": names[i], "psnr": value} for k, (i, value) in enumerate(
        zip(place.tolist(), psnr(samples, images[place]).tolist(), strict=True))]
    return rows, place
