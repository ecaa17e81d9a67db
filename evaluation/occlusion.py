"""Recovering hidden pixels: train on incomplete images and compare what g(z) puts where nothing was seen.

Experiment 5 of Han, Lu, Zhu, Wu: Alternating Back-Propagation for Generator Network, AAAI 2017. An image with
hidden pixels is recovered as itself where they are visible, and elsewhere as the mean of g(z) over the second
half of training, in which each epoch has another z from the warm chain and other weights: what changes from
epoch to epoch is not known from the visible pixels. Two fillings that know no generator are measured beside.
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
         "mae_mean": "mean image: error", "mae_nearest": "nearest pixel: error", "psnr": "PSNR, visible [dB]"}
FORMS = {"hidden": ".1f", "mae": ".2f", "relative": ".3f", "mae_mean": ".2f", "mae_nearest": ".2f",
         "psnr": ".2f"}


def default_masks(img_size):
    """The paper's shares of hidden pixels, 50, 70 and 90 %, and hidden squares of S/4 and S/3, rounded."""
    return [*(f"pepper:{share}" for share in (0.5, 0.7, 0.9)),
            *(f"block:{side}" for side in (img_size // 4, round(img_size / 3)))]


def run(config, images, names, folder, device="cpu", precision="fp32", masks=None):
    """Train a warm start for each mask and measure what it recovers -> rows of the table, one for each mask.

    config     options of a run; its mask and start are replaced
    images     (n, 3, S, S) in [-1, 1], complete: hidden pixels serve to measure errors only
    names      of the images, for messages
    folder     where occlusion.csv, .md, .tex and a picture for each mask are written; made if missing
    device     where to compute
    precision  "fp32" or "bf16"
    masks      list of --mask texts; None: `default_masks`

    A row holds mask; hidden, the share of hidden pixels in %; mae and relative, the `hidden_error` of ABP;
    mae_mean and mae_nearest, the same mae of `fill_with_mean` and `fill_with_nearest`; psnr of g(z) on
    visible pixels in dB. Prints one line a mask. Raises UserError for a text that is no mask or that hides
    nothing.
    """
    masks = default_masks(config.img_size) if masks is None else masks
    configs = [dataclasses.replace(config, mask=text, start="warm") for text in masks]
    for text in masks:                                   # before the first of them has been trained for long
        if make_mask(text, len(images), config.img_size, config.seed) is None:
            raise UserError(f"--mask {text}: hides nothing; leave it out of the masks to compare")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for masked in configs:
        model = ABP(masked, images, "warm", device, precision, names)
        recovered = composite(mean_of_second_half(model), images, model.mask)
        row = {"mask": masked.mask} | _measure(model, recovered)
        rows.append(row)
        print(f"{row['mask']}: mean error on hidden pixels {row['mae']:.1f} of 255, with the mean image "
              f"{row['mae_mean']:.1f}, with the nearest pixel {row['mae_nearest']:.1f}", flush=True)
        shown = torch.linspace(0, len(images) - 1, min(N_SHOWN, len(images))).round().long()
        save_recon({"masked": hide(images, model.mask)[shown], "recovered": recovered[shown],
                    "original": images[shown]}, folder / f"occlusion_{_file_name(row['mask'])}.png")
        write_tables(folder, "occlusion", rows, HEADS, FORMS)
    return rows


def mean_of_second_half(model):
    """Train a model to its last epoch -> mean of g(z) over the second half of the epochs, (n, 3, S, S)."""
    mean, count = 0, 0
    for row in model.train():
        if row["epoch"] > model.config.n_epochs // 2:
            count += 1
            mean = mean + (generate(model.net, model.z) - mean) / count
    return mean


def _measure(model, recovered):
    images, mask = model.images, model.mask
    found = hidden_error(recovered, images, mask)
    visible = reconstruction(model.net, model.z, images, model.config.mse_sigma, mask)
    return {"hidden": 100 * (1 - mask.mean().item()),
            "mae": found["hidden_mae"], "relative": found["hidden_relative"],
            "mae_mean": hidden_error(fill_with_mean(images, mask), images, mask)["hidden_mae"],
            "mae_nearest": hidden_error(fill_with_nearest(images, mask), images, mask)["hidden_mae"],
            "psnr": visible["psnr"]}


def _file_name(mask):
    return re.sub(r"[^\w.]+", "_", mask).strip("_")


def composite(filling, images, mask):
    """Images (n, 3, S, S), and where their mask (n, 1, S, S) is 0 a filling, (n, 3, S, S) or one for all."""
    return torch.where(mask == 1, images, filling)


def fill_with_mean(images, mask):
    """Hidden pixels (mask (n, 1, S, S) is 0) of images (n, 3, S, S) from the mean of the visible ones there.

    The mean is over the images that see the position; where none does, it is over all visible pixels.
    """
    count, total = mask.sum(0), (images * mask).sum(0)                     # (1, S, S), (3, S, S)
    overall = (total.sum((1, 2)) / count.sum()).view(3, 1, 1)
    return composite(torch.where(count > 0, total / count.clamp(min=1), overall), images, mask)


def fill_with_nearest(images, mask):
    """Hidden pixels (mask (n, 1, S, S) is 0) of images (n, 3, S, S) from the image's nearest visible one."""
    filled = images.clone()
    for i, seen in enumerate(mask[:, 0]):
        row, column = distance_transform_edt(seen.numpy() == 0, return_distances=False, return_indices=True)
        filled[i] = images[i][:, torch.from_numpy(row).long(), torch.from_numpy(column).long()]
    return filled
