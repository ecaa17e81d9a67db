"""The latent plane of a trained generator: where images sit, where it tears, what is between."""
import math

import torch
from scipy import stats

from evaluation.modes import midpoints
from inference.measures import panel_range, psnr
from inference.posterior import jacobian, squared_distances

DISK = 0.95                    # fraction of the prior in the disk about 0 that counts as inside
TEAR_LINES, TEAR_POINTS, TEAR_RADIUS = 24, 60, 2.0


def latents(z, names, prior_sigma):
    """Rows of an image's z and |z|^2 / prior_sigma^2, which is chi^2 with 2 degrees of freedom."""
    square = (z.double() / prior_sigma).square().sum(1)
    edge = stats.chi2.ppf(DISK, 2)
    return [{"image": name, "z_1": z_1, "z_2": z_2, "z_square": s,
             "inside": "yes" if s <= edge else "no"}
            for name, (z_1, z_2), s in zip(names, z.tolist(), square.tolist(), strict=True)]


def occupancy(z, prior_sigma):
    """How the latents z (n, 2) fill the prior and the panel, a dict: see start.QUANTITIES."""
    square = (z.double() / prior_sigma).square().sum(1)
    test = stats.kstest(square.numpy(), "chi2", (2,))
    return {"inside": (square <= stats.chi2.ppf(DISK, 2)).double().mean().item(),
            "in_panel": (z.abs() <= panel_range(z, prior_sigma)).all(1).double().mean().item(),
            "ks": float(test.statistic), "ks_p": float(test.pvalue)}


@torch.no_grad()
def stretch(net, reach, cells):
    """log10 of the area by which g stretches the plane, sqrt(det J'J), J = dg/dz, on a grid.

    Over cells x cells midpoints of (-reach, reach)^2 -> (cells, cells) on the CPU, rows from the
    lowest z_2. Where it is far above its surroundings the generator tears. No smaller than -12: 0
    has no logarithm.
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
    """Steps |g(z_k+1) - g(z_k)| / |z_k+1 - z_k| along straight lines within 2 prior_sigma.

    -> {"median", "p95", "greatest", "ratio"}, ratio that of p95 to the median, None where the
    median is 0; a generator without tears has a ratio of at most 4.
    """
    device, generator = next(net.parameters()).device, torch.Generator().manual_seed(0)
    turn, square = torch.rand(2, TEAR_LINES, 2, generator=generator)     # uniform over the disk
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
    return {"median": median, "p95": p95, "greatest": steps.max().item(),
            "ratio": p95 / median if median else None}


def nearest(samples, images, names):
    """The training image nearest to each random sample: rows, and the images' places (m,)."""
    place = torch.cat([squared_distances(samples, x) for x in images.split(256)], 1).argmin(1)
    rows = [{"sample": k + 1, "nearest": names[i], "psnr": value} for k, (i, value) in enumerate(
        zip(place.tolist(), psnr(samples, images[place]).tolist(), strict=True))]
    return rows, place


def high_frequency_power(images):
    """Mean power of images (n, 3, S, S) above S / 8 cycles an image, a quarter of the finest.

    Under a Hann window, so that the opposite edges of an image, which differ, do not count as
    detail.
    """
    size = images.shape[-1]
    window = torch.hann_window(size).outer(torch.hann_window(size))
    spectrum = torch.fft.fft2(images * window, norm="ortho").abs().square() / window.square().mean()
    cycles = torch.fft.fftfreq(size) * size
    high = (cycles[:, None].square() + cycles.square()).sqrt() > size / 8
    return (spectrum * high).mean().item()
