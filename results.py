"""What a run shows: its numbers, its figures, and the warm-cold pairs of the handout."""
import math

import torch

import figures
from masks import hidden_error, hide
from utils import sample_gaussian_prior, squared_distances, to_side, write_atomic, write_json

N_SAMPLES = 96             # random samples that are drawn and measured
SATURATED = 0.98           # |x| beyond which a pixel counts as burnt
MOST_RECON = 48            # reconstructions in a figure; of a larger folder, evenly spaced ones
METRICS = {                # key of metrics.json: (name, format)
    "psnr": ("PSNR [dB]", ".2f"),
    "mse": ("MSE", ".5f"),
    "loss": ("loss (Eq. 7)", ".1f"),
    "z_std": ("std of z", ".2f"),
    "z_mean_square": ("mean of z²", ".2f"),
    "sample_nearest_psnr": ("samples: PSNR to nearest image [dB]", ".2f"),
    "sample_nearest_psnr_p10": ("the same, 10th percentile [dB]", ".2f"),
    "sample_saturation": ("samples: saturated pixels over data's", ".4f"),
    "epochs": ("epochs", "d"),
    "seconds": ("training time [s]", ".0f"),
}
HIDDEN_METRICS = {         # the same, of a run with a mask
    "hidden_mae": ("hidden pixels: mean error of 0 to 255", ".2f"),
    "hidden_relative": ("hidden pixels: relative error", ".3f"),
}


@torch.no_grad()
def generate(net, z, side=None):
    """g(z) in float32, a few at a time: z (n, nz) -> images (n, 3, S, S) on the CPU, or of another side."""
    def images(part):
        full = net(part).float().cpu()
        return full if side is None else to_side(full, side)

    return torch.cat([images(part) for part in z.split(64)])


def sample_images(net, config, n=N_SAMPLES):
    """Random samples: g of n draws of the prior, the same for the same seed; the data has no part in them."""
    generator = torch.Generator().manual_seed(config.seed)
    draws = sample_gaussian_prior(n, config.nz, config.prior_sigma, generator)
    return generate(net, draws.to(next(net.parameters()).device))


def reconstruction(net, z, images, mse_sigma, mask=None):
    """loss (Eq. 7), mse and psnr of images (n, 3, S, S) at their z (n, nz), in float32.

    psnr is the mean over images of 10 log10(4 / mse_i), in dB. With a mask (n, 1, S, S) all three are of the
    visible pixels: the loss sums over them, mse_i is the mean over those of image i.
    """
    def squared_error(part):
        squares = (generate(net, z[part]) - images[part]).square()
        return (squares if mask is None else squares * mask[part]).mean((1, 2, 3))

    error = torch.cat([squared_error(slice(k, k + 64)) for k in range(0, len(z), 64)])
    loss = error.mean().item() * images[0].numel() / (2 * mse_sigma**2)
    mse = error if mask is None else error / mask.mean((1, 2, 3))
    return {"loss": loss, "mse": mse.mean().item(),
            "psnr": (10 * torch.log10(4 / mse)).mean().item()}


def measure(net, z, images, samples, config, mask=None):
    """The numbers of metrics.json that say how good a generator and its latents are, in float32.

    sample_saturation is the share of saturated pixels (|x| > .98) in random samples less the share in the
    images; sample_nearest_psnr the PSNR of random samples to the training image nearest to each, mean and
    10th percentile. With a mask (n, 1, S, S) the reconstruction is measured on visible pixels, all of the
    image is what samples are compared with, and `hidden_error` tells how well hidden pixels are recovered.
    """
    distances = torch.cat([squared_distances(samples, x) for x in images.split(256)], 1)
    nearest = distances.min(1).values / images[0].numel()
    nearest_psnr = 10 * torch.log10(4 / nearest)
    data_saturation = _saturation(images)
    hidden = {} if mask is None else hidden_error(generate(net, z), images, mask)
    return reconstruction(net, z, images, config.mse_sigma, mask) | hidden | {
        "z_std": z.std(0, correction=0).mean().item(),
        "z_mean_square": z.square().mean().item(),
        "sample_saturation": _saturation(samples) - data_saturation,
        "data_saturation": data_saturation,
        "sample_nearest_psnr": nearest_psnr.mean().item(),
        "sample_nearest_psnr_p10": nearest_psnr.quantile(0.1).item(),
    }


def _saturation(images):
    return sum((part.abs() > SATURATED).sum().item() for part in images.split(256)) / images.numel()


def panel_range(z, prior_sigma):
    """d of the panel over (-d, d)^2: the 95th percentile of |z_k|, held between 1 and 3 stds of the prior."""
    d = z[:, :2].abs().flatten().quantile(0.95).item() / prior_sigma
    return round(min(3.0, max(1.0, d)), 1) * prior_sigma


def panel_axes(d, ninterp, nz):
    """Values of z_1 from left to right and of z_2 from top to bottom; none of z_2 where nz is 1."""
    values = torch.linspace(-d, d, ninterp)
    return values.tolist(), values.flip(0).tolist() if nz > 1 else []


def panel_latents(columns, rows, nz):
    """The z of every cell, row by row from the top left: (cells, nz); coordinates beyond the second are 0."""
    z = torch.zeros(len(columns) * max(1, len(rows)), nz)
    z[:, 0] = torch.tensor(columns).repeat(max(1, len(rows)))
    if rows:
        z[:, 1] = torch.tensor(rows).repeat_interleave(len(columns))
    return z


def panel(net, z, config):
    """The cells of the interpolation panel, row by row from the top left, and its axes z_1 and z_2."""
    columns, rows = panel_axes(panel_range(z, config.prior_sigma), config.ninterp, config.nz)
    return generate(net, panel_latents(columns, rows, config.nz).to(z.device)), columns, rows


def draw_recon(net, z, images, path, mask=None):
    """Training images and their reconstructions; of a large folder, evenly spaced ones.

    With a mask (n, 1, S, S): images as seen, hidden pixels mid grey, reconstructions, and whole images.
    """
    shown = torch.arange(0, len(z), math.ceil(len(z) / MOST_RECON))
    x, recon = images[shown], generate(net, z[shown.to(z.device)])
    figures.save_recon({"image": x, "g(z)": recon} if mask is None else
                      {"seen": hide(x, mask[shown]), "g(z)": recon, "image": x}, path)


def draw_snapshot(net, z, images, config, folder, epoch, mask=None):
    """Reconstructions, samples and the plain panel: EPOCH_recon.png, EPOCH_samples.png, EPOCH_interp.png."""
    draw_recon(net, z, images, folder / f"{epoch:04d}_recon.png", mask)
    figures.save_images(sample_images(net, config), folder / f"{epoch:04d}_samples.png")
    figures.save_images(panel(net, z, config)[0], folder / f"{epoch:04d}_interp.png", config.ninterp)


def write_start(net, z, images, history, config, folder, mask=None):
    """All results of one finished start in its folder: every figure, then metrics.json."""
    samples = sample_images(net, config)
    draw_recon(net, z, images, folder / "recon.png", mask)
    figures.save_images(samples, folder / "samples.png")
    figures.save_interp(*panel(net, z, config), [folder / "interp.png", folder / "interp.pdf"])
    figures.plot_stats({folder.name: history}, [folder / "loss.png", folder / "loss.pdf"])
    figures.plot_latents(z, images, config.prior_sigma, folder / "latents.pdf")
    metrics = measure(net, z, images, samples, config, mask)
    metrics |= {"panel_range": panel_range(z, config.prior_sigma),
                "seconds": sum(r["seconds"] for r in history), "epochs": len(history),
                "n_images": len(images), "img_size": config.img_size,
                "n_parameters": sum(p.numel() for p in net.parameters())}
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_run(folder, metrics, histories, config):
    """What belongs to the whole run: the table, and with both starts the handout's warm-cold figures.

    metrics, histories  {"warm": ..., "cold": ...} or one of the two
    """
    write_atomic(folder / "metrics.md", _markdown_table(metrics))
    if len(metrics) < 2:
        return
    figures.plot_stats(histories, [folder / "warm_cold_loss.png", folder / "warm_cold_loss.pdf"])
    for name in ("recon", "samples", "interp"):
        rows = [[(f"{start} start, {config.n_epochs} epochs", folder / start / f"{name}.png")
                 for start in metrics]]
        halves = {start: half_way(folder / start / "epochs", config.n_epochs) for start in metrics}
        if name == "recon" and None not in halves.values():                          # the handout's Figure 2
            rows.insert(0, [(f"{start} start, {epoch} epochs", path)
                            for start, (epoch, path) in halves.items()])
        figures.save_side_by_side(rows, folder / f"warm_cold_{name}.png")


def half_way(snapshots, n_epochs):
    """Epoch and path of the snapshot of the reconstructions nearest to half the epochs; None without one."""
    epochs = [int(p.name.split("_")[0]) for p in snapshots.glob("*_recon.png")]
    epochs = [e for e in epochs if e < n_epochs]
    if not epochs:
        return None
    epoch = min(epochs, key=lambda e: abs(e - n_epochs / 2))
    return epoch, snapshots / f"{epoch:04d}_recon.png"


def table_rows(metrics):
    """METRICS, and those of hidden pixels where there are any: (key, (name, format))."""
    masked = any("hidden_mae" in m for m in metrics.values())
    return (METRICS | HIDDEN_METRICS if masked else METRICS).items()


def _markdown_table(metrics):
    lines = ["| | " + " | ".join(f"{start} start" for start in metrics) + " |",
             "|---|" + "---:|" * len(metrics)]
    for key, (name, form) in table_rows(metrics):
        lines.append(f"| {name} | " + " | ".join(format(m[key], form) for m in metrics.values()) + " |")
    return "\n".join(lines) + "\n"
