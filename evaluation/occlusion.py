"""Recovering hidden pixels: train on incomplete images, compare with the originals where hidden.

Experiment 5 of Han, Lu, Zhu, Wu: Alternating Back-Propagation for Generator Network, AAAI 2017.
Visible pixels are kept, hidden ones are the mean of g(z) over the second half of training, in which
each epoch has another z from the warm chain and other weights: what changes from epoch to epoch is
not known from the visible pixels. Two baselines without a generator are measured beside.
"""
import dataclasses
import re

import torch
from scipy.ndimage import distance_transform_edt

from abp import ABP
from inference.masks import hidden_error, hide, make_mask
from inference.measures import generate, reconstruction
from runs.options import UserError
from runs.tables import write_tables
from utils import save_recon

N_SHOWN = 8                # images in a picture, evenly spaced
HEADS = {"hidden": "hidden [%]", "mae": "ABP: error", "relative": "ABP: relative error",
         "mae_mean": "mean image: error", "mae_nearest": "nearest pixel: error",
         "psnr": "PSNR, visible [dB]"}
FORMS = {"hidden": ".1f", "mae": ".2f", "relative": ".3f", "mae_mean": ".2f", "mae_nearest": ".2f",
         "psnr": ".2f"}


def default_masks(img_size):
    """The paper's fractions of hidden pixels, .5, .7 and .9, and hidden squares of S/4 and S/3."""
    return [*(f"pepper:{fraction}" for fraction in (0.5, 0.7, 0.9)),
            *(f"block:{side}" for side in (img_size // 4, round(img_size / 3)))]


def run(config, images, names, folder, device="cpu", precision="fp32", masks=None):
    """Train a warm start for each mask and measure what it recovers -> rows, one for each mask.

    config     options of a run; its mask and start are replaced
    images     (n, 3, S, S) in [-1, 1], complete: hidden pixels serve to measure errors only
    names      of the images, for messages
    folder     gets occlusion.csv, .md, .tex and a picture for each mask; made if missing
    masks      list of --mask texts; None: `default_masks`

    A row holds mask; hidden, the percentage of hidden pixels; mae and relative, the `hidden_error`;
    mae_mean and mae_nearest, that of the baselines; psnr of g(z) on visible pixels in dB. Raises
    UserError for a text that is no mask or hides nothing.
    """
    masks = default_masks(config.img_size) if masks is None else masks
    configs = [dataclasses.replace(config, mask=text, start="warm") for text in masks]
    for text in masks:                                   # before any training
        if make_mask(text, len(images), config.img_size, config.seed) is None:
            raise UserError(f"--mask {text}: hides nothing; leave it out of the masks to compare")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for masked in configs:
        model = ABP(masked, images, "warm", device, precision, names)
        recovered = composite(mean_of_second_half(model), images, model.mask)
        row = {"mask": masked.mask} | _measure(model, recovered)
        rows.append(row)
        print(f"{row['mask']}: mean error on hidden pixels {row['mae']:.1f} of 255, with the mean "
              f"image {row['mae_mean']:.1f}, with the nearest pixel {row['mae_nearest']:.1f}",
              flush=True)
        shown = torch.linspace(0, len(images) - 1, min(N_SHOWN, len(images))).round().long()
        name = re.sub(r"[^\w.]+", "_", row["mask"]).strip("_")
        save_recon({"masked": hide(images, model.mask)[shown], "recovered": recovered[shown],
                    "original": images[shown]}, folder / f"occlusion_{name}.png")
        write_tables(folder, "occlusion", rows, HEADS, FORMS)
    return rows


def mean_of_second_half(model):
    """Train a model to its end -> mean of g(z) over the second half of the epochs, (n, 3, S, S)."""
    mean, count = 0, 0
    for row in model:
        if row["epoch"] > model.config.n_epochs // 2:
            count += 1
            mean = mean + (generate(model.net, model.z) - mean) / count
    return mean


def _measure(model, recovered):
    images, mask = model.images, model.mask
    errors = {name: hidden_error(filled, images, mask) for name, filled in (
        ("mae", recovered), ("mae_mean", fill_with_mean(images, mask)),
        ("mae_nearest", fill_with_nearest(images, mask)))}
    visible = reconstruction(model.net, model.z, images, model.config.mse_sigma, mask)
    row = {name: error["hidden_mae"] for name, error in errors.items()}
    row |= {"hidden": 100 * (1 - mask.mean().item()), "relative": errors["mae"]["hidden_relative"],
            "psnr": visible["psnr"]}
    return {key: row[key] for key in HEADS}


def composite(filling, images, mask):
    """Images (n, 3, S, S), but where mask (n, 1, S, S) is 0 a filling (n or 1, 3, S, S)."""
    return torch.where(mask == 1, images, filling)


def fill_with_mean(images, mask):
    """Fill hidden pixels, where mask (n, 1, S, S) is 0, with the mean of the images that show them.

    images (n, 3, S, S). Where none does, it is the mean over all visible pixels.
    """
    count, total = mask.sum(0), (images * mask).sum(0)                     # (1, S, S), (3, S, S)
    overall = (total.sum((1, 2)) / count.sum()).view(3, 1, 1)
    mean = torch.where(count > 0, total / count.clamp(min=1), overall)
    return composite(mean, images, mask)


def fill_with_nearest(images, mask):
    """Fill hidden pixels, where mask (n, 1, S, S) is 0, from the image's nearest visible pixel."""
    filled = images.clone()
    for i, visible in enumerate(mask[:, 0]):
        _, place = distance_transform_edt(visible.numpy() == 0, return_indices=True)
        row, column = torch.from_numpy(place).long()
        filled[i] = images[i][:, row, column]
    return filled
