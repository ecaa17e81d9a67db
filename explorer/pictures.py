"""Pictures and movies of one start: those due after an epoch, and all at the end."""
import math

import torch

import utils
from explorer import movies
from explorer.page import write_explorer
from inference import measures
from inference.masks import hide
from inference.measures import generate
from runs.files import write_json

MOST_RECON = 48       # reconstructions in a figure


def draw_epoch(model, folder):
    """Draw what is due after an epoch -> paths of the pictures of a snapshot, if one is due."""
    config, epoch = model.config, model.epoch
    last, quarter = epoch == config.n_epochs, max(1, config.n_epochs // 4)
    if last or movies.is_frame(epoch):
        movies.save_frame(model.net, config, folder / "frames", epoch)
    if not last and epoch % (config.n_stats or quarter) == 0:
        utils.plot_stats({model.start: model.history}, [folder / "loss.png"])
    if not last and epoch % (config.n_plot or quarter) == 0:
        return draw_snapshot(model, folder / "epochs")
    return []


def draw_start(model, folder):
    """Draw all pictures of a finished start and write its metrics.json -> the metrics."""
    net, z, config = model.net, model.z, model.config
    samples = measures.sample_images(net, config)
    draw_recon(model, folder / "recon.png")
    utils.save_images(samples, folder / "samples.png")
    utils.save_interp(*panel(net, z, config), [folder / "interp.png", folder / "interp.pdf"])
    utils.plot_stats({model.start: model.history}, [folder / "loss.png", folder / "loss.pdf"])
    utils.plot_latents(z, model.images, config.prior_sigma, folder / "latents.pdf")
    metrics = measures.measure(net, z, model.images, samples, config, model.mask)
    metrics |= {"panel_range": measures.panel_range(z, config.prior_sigma),
                "seconds": sum(r["seconds"] for r in model.history), "epochs": len(model.history),
                "passes": sum(r["passes"] for r in model.history),
                "n_images": len(model.images), "n_samples": len(samples),
                "img_size": config.img_size,
                "n_parameters": sum(p.numel() for p in net.parameters())}
    write_explorer(net, z, model.images, config, folder / "explorer.html")
    movies.write_walk(net, z, folder / "walk.webp")
    movies.write_training(folder / "frames", config.n_epochs, folder / "training.webp")
    write_json(folder / "metrics.json", metrics)
    return metrics


def draw_recon(model, path):
    """Training images (of a large folder, evenly spaced ones) and their reconstructions.

    With a mask: images with hidden pixels in grey, reconstructions, complete images.
    """
    shown = torch.arange(0, len(model.z), math.ceil(len(model.z) / MOST_RECON))
    x, recon = model.images[shown], generate(model.net, model.z[shown.to(model.z.device)])
    rows = {"image": x, "g(z)": recon} if model.mask is None else {
        "seen": hide(x, model.mask[shown]), "g(z)": recon, "image": x}
    utils.save_recon(rows, path)


def panel(net, z, config):
    """The cells of the panel, row by row from the top left, and its axes z_1 and z_2."""
    reach = measures.panel_range(z, config.prior_sigma)
    columns, rows = measures.panel_axes(reach, config.ninterp, config.nz)
    cells = measures.panel_latents(columns, rows, config.nz).to(z.device)
    return generate(net, cells), columns, rows


def draw_snapshot(model, folder):
    """Reconstructions, samples and the panel after an epoch -> paths EPOCH_recon.png, ..."""
    paths = [folder / f"{model.epoch:04d}_{name}.png" for name in ("recon", "samples", "interp")]
    draw_recon(model, paths[0])
    utils.save_images(measures.sample_images(model.net, model.config), paths[1])
    utils.save_images(panel(model.net, model.z, model.config)[0], paths[2], model.config.ninterp)
    return paths
