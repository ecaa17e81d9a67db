"""Held-out images: leave-k-out reconstruction by ABP and by the linear models.

Each fold holds out k images, trains on the rest, and infers the latents of the held-out images with
fixed weights. A model that only memorises does no better than the nearest training image. log p of
held-out images is at the maximum-likelihood noise of the training images, for ABP (by quadrature,
if nz is 2) and for the linear models.
"""
import dataclasses
import math
from typing import NamedTuple

import torch
from tqdm import tqdm

from abp import ABP
from evaluation import linear
from evaluation.likelihood import Joint
from evaluation.modes import find_modes, refine, survey
from evaluation.quadrature import log_evidence, ml_sigma
from explorer.pictures import MOST_RECON
from inference.measures import generate, psnr
from inference.posterior import frozen, sample_gaussian_prior, squared_distances
from runs.device import DTYPES
from runs.options import UserError
from runs.tables import write_tables
from utils import save_recon

N_DRAWS = 512              # draws of the prior that are tried as an image's latent
N_STARTS = 8               # of them, those from which descents start
LEAST_REST = 3             # training images that PCA with two components needs
NEAREST = "nearest training image"
HEADS = {"train_psnr": "training PSNR [dB]", "heldout_psnr": "held-out PSNR [dB]",
         "heldout_log_p": "held-out log p [nats]"}
FORMS = {"train_psnr": ".2f", "heldout_psnr": ".2f", "heldout_log_p": ".0f"}


class Fit(NamedTuple):
    """How a model that was fitted to r images reconstructs h held-out ones."""
    train_psnr: torch.Tensor       # (r,), dB
    recon: torch.Tensor            # (h, 3, S, S), of the held-out images
    psnr: torch.Tensor             # (h,), dB
    log_p: torch.Tensor            # (h,), nats; nan where the model has none


def folds(n, n_folds, seed):
    """Split range(n) at random into n_folds parts of nearly equal size: sorted index tensors."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(n_folds)]


def run(config, images, names, folder, device, precision, n_folds):
    """Hold out each of n_folds parts once: train on the rest, measure all models on the part.

    config             abp.Config of the trainings
    images             (n, 3, S, S) in [-1, 1], with their names
    folder             gets holdout_summary.*, a row for each model, and holdout.png
    device, precision  of the trainings; latents are inferred in float32
    Returns the rows. Raises UserError if too few images would be left to train on.
    """
    n = len(images)
    least = max(2, math.ceil(n / max(1, n - LEAST_REST)))    # folds that leave LEAST_REST images
    if n <= LEAST_REST or not least <= n_folds <= n:
        remedy = f"choose {least} to {n}" if n > LEAST_REST else "add images"
        raise UserError(f"--folds {n_folds}: cannot split {n} images and leave {LEAST_REST} for "
                        f"training; {remedy}")
    if config.mask != "none":
        print(f"--mask {config.mask}: left out; models are trained and measured on whole images")
    split = folds(n, n_folds, config.seed)
    config = dataclasses.replace(config, start="warm", mask="none")
    fits = [fit_fold(config, images, names, part, device, precision)
            for part in tqdm(split, desc="leave-k-out", unit="fold", disable=None)]
    # d = 16 may need more images than a fold trains on
    together = {key: Fit(*map(torch.cat, zip(*(fit[key] for fit in fits), strict=True)))
                for key in fits[0] if all(key in fit for fit in fits)}
    rows = [{"model": name, "d": d, "train_psnr": _mean(fit.train_psnr),
             "heldout_psnr": _mean(fit.psnr), "heldout_log_p": _mean(fit.log_p)}
            for (name, d), fit in together.items()]
    write_tables(folder, "holdout_summary", rows, HEADS, FORMS)
    shown = torch.arange(0, n, math.ceil(n / MOST_RECON))
    place = torch.cat(split).argsort()[shown]                     # in the order of the folds
    save_recon({"held out": images[shown], "ABP": together["ABP", config.nz].recon[place],
                "PCA, d = 2": together["PCA", 2].recon[place]}, folder / "holdout.png")
    return rows


def _mean(values):
    """The mean of a tensor; None if it is not finite."""
    mean = values.mean().item()
    return mean if math.isfinite(mean) else None


def infer(net, images, config):
    """Latents of held-out images (n, 3, S, S): the best mode found -> z (n, nz), on net's device.

    Descents start for each image from the N_STARTS of least U of N_DRAWS draws of the prior.
    net  as returned by posterior.frozen
    """
    joint, sigma = Joint(net, images, config.prior_sigma), config.mse_sigma
    generator = torch.Generator().manual_seed(config.seed)
    draws = sample_gaussian_prior(N_DRAWS, config.nz, config.prior_sigma, generator).double()
    prior = draws.square().sum(1) / (2 * config.prior_sigma**2)
    energy = joint.distances(draws) / (2 * sigma**2) + prior
    start = draws[energy.topk(N_STARTS, largest=False).indices].flatten(0, 1)
    image_of = torch.arange(len(images)).repeat_interleave(N_STARTS)
    z, energy, _, _ = refine(lambda i, z: joint.local(image_of[i], z, sigma), start)
    best = energy.view(-1, N_STARTS).argmin(1)
    z = z.view(-1, N_STARTS, config.nz)[torch.arange(len(images)), best]
    return z.float().to(joint.device)


def fit_fold(config, images, names, held_out, device, precision):
    """{(model, d): Fit} of every model, fitted to all images but those at the indices held_out."""
    rest = [i for i in range(len(images)) if i not in set(held_out.tolist())]
    train, test = images[rest], images[held_out]
    model = ABP(config, train, "warm", device, precision, [names[i] for i in rest])
    list(model)                                                       # trains
    net = frozen(model.net)
    z, log_p = infer(net, test, config), torch.full((len(test),), math.nan, dtype=torch.float64)
    if config.nz == 2:
        seen, joint = (Joint(net, x, config.prior_sigma, DTYPES[precision]) for x in (train, test))
        sigma, _ = ml_sigma(seen, survey(seen), model.z.cpu())
        plane = survey(joint)
        modes = find_modes(joint, plane, sigma, z.cpu())
        log_p = log_evidence(joint, plane, modes, sigma).log_p
    recons = {("ABP", config.nz): (generate(net, model.z), generate(net, z), log_p)}
    for m in linear.fit_all(train):
        recons[m.name, m.d] = m.reconstruct(train), m.reconstruct(test), m.log_density(test)
    nearest, none = train[squared_distances(test, train).argmin(1)], torch.tensor(math.nan)
    recons[NEAREST, None] = none.expand_as(train), nearest, none.expand_as(log_p)
    return {key: Fit(psnr(seen, train), recon.double(), psnr(recon, test), log_p)
            for key, (seen, recon, log_p) in recons.items()}
