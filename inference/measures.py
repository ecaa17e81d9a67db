"""Generated images and their measures: reconstruction, random samples, the log, the panel."""
import math

import torch

from inference.masks import hidden_error
from inference.posterior import frozen, sample_gaussian_prior, squared_distances
from runs.options import UserError

N_SAMPLES = 96                   # random samples that are drawn and measured
SATURATED = 0.98                 # |x| from which a pixel counts as saturated


@torch.no_grad()
def generate(net, z, side=None):
    """g(z) in float32: z (n, nz) -> images (n, 3, S, S) on the CPU, resized to a side if given."""
    net = frozen(net)
    images = torch.cat([net(part).float().cpu() for part in z.split(64)])
    return images if side is None else to_side(images, side)


def sample_images(net, config):
    """N_SAMPLES random samples (N_SAMPLES, 3, S, S) of a generator, fixed by config.seed."""
    generator = torch.Generator().manual_seed(config.seed)
    draws = sample_gaussian_prior(N_SAMPLES, config.nz, config.prior_sigma, generator)
    return generate(net, draws.to(next(net.parameters()).device))


def to_side(images, side):
    """Images (n, 3, S, S) at another side, both powers of two: pixels averaged, or repeated."""
    factor = images.shape[-1] // side
    if factor > 1:
        return torch.nn.functional.avg_pool2d(images, factor)
    factor = side // images.shape[-1]
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def psnr(recon, images, mask=None):
    """10 log10(4 / mse) [dB] over visible pixels: (n, 3, S, S) twice -> (n,)."""
    return decibels(mean_squared_error(recon, images, mask))


def decibels(error):
    """The PSNR [dB] of mean squared errors of pixels in [-1, 1], of the same shape; at most 100."""
    return -10 * torch.log10((error / 4).clamp(min=1e-10))


def mean_squared_error(recon, images, mask=None):
    """Mean squared error of each image over visible pixels: (n, 3, S, S) twice -> (n,)."""
    squares = (recon - images).square()
    if mask is None:
        return squares.mean((1, 2, 3))
    return (squares * mask).mean((1, 2, 3)) / mask.mean((1, 2, 3))


def reconstruction(net, z, images, mse_sigma, mask=None):
    """loss (Eq. 7), mse and psnr [dB] over visible pixels of images (n, 3, S, S), z (n, nz)."""
    recon = generate(net, z)
    error = mean_squared_error(recon, images, mask)
    visible = 1 if mask is None else mask.mean((1, 2, 3))
    loss = (error * visible).mean().item() * images[0].numel() / (2 * mse_sigma**2)
    return {"loss": loss, "mse": error.mean().item(),
            "psnr": decibels(error).mean().item()}


def measure(net, z, images, samples, config, mask=None):
    """The numbers of metrics.json that measure a generator, its z (n, nz) and random samples.

    sample_saturated, data_saturated  fractions of pixels with |x| > SATURATED in samples and images
    sample_nearest_psnr  PSNR [dB] of each sample to its nearest training image, mean and 10th
                         percentile; high values mean that the generator repeats the training images
    A mask restricts `reconstruction` to visible pixels and adds `hidden_error`.
    """
    nearest = torch.cat([squared_distances(samples, x) for x in images.split(256)], 1).argmin(1)
    near = psnr(samples, images[nearest])
    hidden = {} if mask is None else hidden_error(generate(net, z), images, mask)
    return reconstruction(net, z, images, config.mse_sigma, mask) | hidden | {
        "z_std": z.std(0, correction=0).mean().item(),
        "z_mean_square": z.square().mean().item(),
        "sample_saturated": (samples.abs() > SATURATED).float().mean().item(),
        "data_saturated": (images.abs() > SATURATED).float().mean().item(),
        "sample_nearest_psnr": near.mean().item(),
        "sample_nearest_psnr_p10": near.quantile(0.1).item(),
    }


def log_row(model, acceptance, step, grad_norm):
    """A row of the log after an epoch of an ABP model; acceptance rates (n,), step sizes (n,)."""
    config, n = model.config, len(model.images)
    if not math.isfinite(grad_norm):
        raise UserError(f"the gradient is not finite in epoch {model.epoch} of the {model.start} "
                        "start; lower --lr")
    row = {"epoch": model.epoch, "sigma": config.sigma(model.epoch - 1, model.visible)}
    row |= reconstruction(model.net, model.z, model.images, config.mse_sigma, model.mask)
    for name, values in (("mean", model.z.mean(0)), ("std", model.z.std(0, correction=0))):
        row |= {f"z_{name}_{k + 1}": value for k, value in enumerate(values.tolist())}
    return row | {"z_mean_square": model.z.square().mean().item(), "grad_norm": grad_norm,
                  "step": step.mean().item(), "accept": acceptance.mean().item(),
                  "unstable": (acceptance < 0.01).float().mean().item(),
                  "jumps": model.jumps / n, "passes": model.passes / n}


def panel_range(z, prior_sigma):
    """d of the panel over (-d, d)^2: 95th percentile of |z_k|, within 1 to 3 prior_sigma."""
    d = z[:, :2].abs().flatten().quantile(0.95).item() / prior_sigma
    return round(min(3.0, max(1.0, d)), 1) * prior_sigma


def panel_axes(d, ninterp, nz):
    """Values of z_1 from left to right and of z_2 from top to bottom ([] if nz is 1)."""
    values = torch.linspace(-d, d, ninterp)
    return values.tolist(), values.flip(0).tolist() if nz > 1 else []


def panel_latents(columns, rows, nz):
    """z of every cell (cells, nz), row by row from the top left; coordinates from z_3 on are 0."""
    n_rows = max(1, len(rows))
    z = torch.zeros(len(columns) * n_rows, nz)
    z[:, 0] = torch.tensor(columns).repeat(n_rows)
    if rows:
        z[:, 1] = torch.tensor(rows).repeat_interleave(len(columns))
    return z
