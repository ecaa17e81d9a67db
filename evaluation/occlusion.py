"""Recovering hidden pixels: train on incomplete images, compare with the originals where hidden.

Experiment 5 of Han, Lu, Zhu, Wu: Alternating Back-Propagation for Generator Network, AAAI 2017.
Visible pixels are kept; hidden ones are the mean of g(z) over the second half of training, which
averages over chain states and weights. Two baselines need no generator: the mean image and the
nearest visible pixel.
"""
import dataclasses

import torch
from scipy.ndimage import distance_transform_edt

from abp import ABP
from inference.masks import hidden_error, hide
from inference.measures import generate, reconstruction
from runs.tables import write_tables
from utils import save_recon

N_SHOWN = 8                # images in a picture, evenly spaced
HEADS = {"hidden": "hidden [%]", "mae": "ABP: error", "relative": "ABP: relative error",
         "mae_mean": "mean image: error", "mae_nearest": "nearest pixel: error",
         "psnr": "PSNR, visible [dB]"}
FORMS = dict.fromkeys(HEADS, ".2f") | {"hidden": ".1f", "relative": ".3f"}


def run(config, images, names, folder, device, precision):
    """Train a warm start for each mask and measure what it recovers -> rows, one for each mask.

    The masks hide the paper's fractions .5, .7 and .9 of the pixels, and squares of S/4 and S/3.

    config  abp.Config of the trainings; its mask and start are replaced
    images  (n, 3, S, S) in [-1, 1], complete: hidden pixels serve only to measure errors
    names   of the images, for messages
    folder  gets occlusion.csv, .md, .tex and a picture for each mask

    A row holds mask; hidden, the percentage of hidden pixels; mae and relative, the `hidden_error`;
    mae_mean and mae_nearest, that of the baselines; psnr of g(z) on visible pixels in dB.
    """
    side, rows = config.img_size, []
    for text in ("pepper:0.5", "pepper:0.7", "pepper:0.9", f"block:{side // 4}",
                 f"block:{round(side / 3)}"):
        masked = dataclasses.replace(config, mask=text, start="warm")
        model = ABP(masked, images, "warm", device, precision, names)
        mask, recovered = model.mask, composite(mean_of_second_half(model), images, model.mask)
        mae, mean, nearest = (hidden_error(filled, images, mask) for filled in (
            recovered, fill_with_mean(images, mask), fill_with_nearest(images, mask)))
        visible = reconstruction(model.net, model.z, images, config.mse_sigma, mask)
        rows.append({"mask": text, "hidden": 100 * (1 - mask.mean().item()),
                     "mae": mae["hidden_mae"], "relative": mae["hidden_relative"],
                     "mae_mean": mean["hidden_mae"], "mae_nearest": nearest["hidden_mae"],
                     "psnr": visible["psnr"]})
        print("{mask}: mean error on hidden pixels {mae:.1f} of 255, with the mean image "
              "{mae_mean:.1f}, with the nearest pixel {mae_nearest:.1f}".format(**rows[-1]),
              flush=True)
        shown = torch.linspace(0, len(images) - 1, min(N_SHOWN, len(images))).round().long()
        save_recon({"masked": hide(images, mask)[shown], "recovered": recovered[shown],
                    "original": images[shown]}, folder / f"occlusion_{text.replace(':', '_')}.png")
        write_tables(folder, "occlusion", rows, HEADS, FORMS)
    return rows


def mean_of_second_half(model):
    """Train a model to its end -> mean of g(z) over the second half of the epochs, (n, 3, S, S)."""
    skipped, total = model.config.n_epochs // 2, 0
    for row in model:
        if row["epoch"] > skipped:
            total = total + generate(model.net, model.z)
    return total / (model.config.n_epochs - skipped)


def composite(filling, images, mask):
    """Images (n, 3, S, S), with a filling (n or 1, 3, S, S) where mask (n, 1, S, S) is 0."""
    return torch.where(mask == 1, images, filling)


def fill_with_mean(images, mask):
    """Fill hidden pixels, where mask (n, 1, S, S) is 0, with the mean of the images that show them.

    images (n, 3, S, S). A pixel that no image shows gets the mean over all visible pixels.
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
