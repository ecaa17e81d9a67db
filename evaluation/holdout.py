"""Images that training never saw: leave-k-out reconstruction by ABP and by the linear models.

Each fold holds out k images, trains on the rest, and infers the held-out images' latents with the
weights fixed. A model that only memorised its images does no better than the nearest of them. log p
of held-out images is at the likeliest noise for the rest, for ABP (estimated by quadrature, if nz
is 2) as for the linear models: a model that overfits has a small noise and pays for it.
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
from inference.measures import generate, mean_squared_error, psnr
from inference.posterior import frozen, sample_gaussian_prior, squared_distances
from runs.device import DTYPES
from runs.options import UserError
from runs.tables import write_tables
from utils import save_recon

N_DRAWS = 512              # draws of the prior that are tried as an image's latent ...
N_STARTS = 8               # ... and how many of them are refined
LEAST_REST = 3             # training images that PCA with two components needs
NEAREST = "nearest training image"
LABELS = {"abp": "ABP", "pca": "PCA, d = 2", "fa": "FA, d = 2"}
MEASURES = {"psnr": ("PSNR [dB]", ".2f"), "mse": ("MSE", ".5f"), "log_p": ("log p [nats]", ".0f"),
            "bits": ("bits/dim", ".3f")}
COLUMNS = {f"{key}_{name}": (f"{label}: {title}", form)
           for key, label in ({"heldout": "held-out", "train": "training"} | LABELS).items()
           for name, (title, form) in MEASURES.items()}
HEADS, FORMS = ({key: pair[k] for key, pair in COLUMNS.items()} for k in (0, 1))


class Fit(NamedTuple):
    """How a model that was fitted on r images reconstructs h held-out ones."""
    train_psnr: torch.Tensor       # (r,), dB
    recon: torch.Tensor            # (h, 3, S, S), of the held-out images
    mse: torch.Tensor              # (h,)
    psnr: torch.Tensor             # (h,), dB
    log_p: torch.Tensor            # (h,), nats; nan where the model has none


def folds(n, n_folds, seed):
    """Split range(n) at random into n_folds parts, as even as can be.

    Returns a list of index tensors, sorted within; every index is in exactly one.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(n_folds)]


def run(config, images, names, folder, device, precision, n_folds):
    """Hold out each of n_folds parts once: train on the rest, measure all models on the part.

    config     abp.Config of the trainings, which begin anew for each fold
    images     (n, 3, S, S) in [-1, 1], with their names
    folder     gets holdout.*, a row an image; holdout_summary.*, a row a model; holdout.png
    device, precision  of the trainings, on complete images; latents are inferred in float32
    Returns the rows of the summary. Raises UserError if too few images would be left to train on.
    """
    n = len(images)
    least = max(2, math.ceil(n / max(1, n - LEAST_REST)))    # folds that leave LEAST_REST images
    if n <= LEAST_REST or not least <= n_folds <= n:
        remedy = f"choose {least} to {n}" if n > LEAST_REST else "add images"
        raise UserError(f"--folds {n_folds}: cannot split {n} images and leave {LEAST_REST} for "
                        f"training; {remedy}")
    if config.mask != "none":
        print(f"--mask {config.mask}: is left out; all models train and are judged on whole images")
    split = folds(n, n_folds, config.seed)
    config = dataclasses.replace(config, start="warm", mask="none")
    fits = [_fit_fold(config, images, names, part, device, precision)
            for part in tqdm(split, desc="leave-k-out", unit="fold", disable=None)]
    back = torch.cat(split).argsort()                      # from the folds' order to the images'
    together = {}
    for key in fits[0]:
        if all(key in fit for fit in fits):    # d = 16 may need more images than are left
            train_psnr, *rest = map(torch.cat, zip(*(fit[key] for fit in fits), strict=True))
            together[key] = Fit(train_psnr, *(values[back] for values in rest))
    fold = torch.cat([torch.full_like(part, i) for i, part in enumerate(split, 1)])[back].tolist()
    summary = [_summary_row(key, fit) for key, fit in together.items()]
    write_tables(folder, "holdout", _image_rows(together, names, fold, config.nz), HEADS, FORMS)
    write_tables(folder, "holdout_summary", summary, HEADS, FORMS)
    shown = torch.arange(0, n, math.ceil(n / MOST_RECON))
    save_recon({"held out": images[shown], "ABP": together["ABP", config.nz].recon[shown],
                "PCA, d = 2": together["PCA", 2].recon[shown]}, folder / "holdout.png")
    return summary


def infer(net, images, config):
    """Latents of images that a generator was not trained on: the best mode found of each posterior.

    Of N_DRAWS draws of the prior, the same for all images, each image's N_STARTS of least U begin
    descents, and the lowest end wins. net as of posterior.frozen; images (n, 3, S, S).
    Returns z (n, nz) on the network's device.
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


def _fit_fold(config, images, names, held_out, device, precision):
    """{(model, d): Fit} of every model, fitted on all images but those at `held_out`."""
    rest = [i for i in range(len(images)) if i not in set(held_out.tolist())]
    train, test = images[rest], images[held_out]
    model = ABP(config, train, "warm", device, precision, [names[i] for i in rest])
    list(model)                                                       # trains
    net = frozen(model.net)
    z, log_p = infer(net, test, config), torch.full((len(test),), math.nan, dtype=torch.float64)
    if config.nz == 2:
        log_p = log_density(net, config.prior_sigma, train, model.z.cpu(), test, z.cpu(),
                            DTYPES[precision])
    recons = {("ABP", config.nz): (generate(net, model.z), generate(net, z), log_p)}
    for m in linear.fit_all(train):
        recons[m.name, m.d] = m.reconstruct(train), m.reconstruct(test), m.log_density(test)
    nearest, none = train[squared_distances(test, train).argmin(1)], torch.tensor(math.nan)
    recons[NEAREST, None] = none.expand_as(train), nearest, none.expand_as(log_p)
    return {key: Fit(psnr(seen, train), recon.double(), mean_squared_error(recon, test),
                     psnr(recon, test), log_p) for key, (seen, recon, log_p) in recons.items()}


def log_density(net, prior_sigma, train, train_z, test, test_z, search=torch.float32):
    """log p of held-out images at the likeliest sigma of the training images -> (h,), nats.

    net on any device; train (r, 3, S, S) and test (h, 3, S, S) with latents (r, 2) and (h, 2) from
    which modes are searched for too; search: dtype of the searches.
    """
    seen = Joint(net, train, prior_sigma, search)
    sigma, _ = ml_sigma(seen, survey(seen), train_z)
    joint = Joint(net, test, prior_sigma, search)
    plane = survey(joint)
    return log_evidence(joint, plane, find_modes(joint, plane, sigma, test_z), sigma).log_p


def _number(values):
    """The mean of a tensor; None if it is not finite."""
    mean = values.mean().item()
    return mean if math.isfinite(mean) else None


def _summary_row(key, fit):
    log_p = _number(fit.log_p)
    bits = log_p and linear.bits_per_dim(log_p, fit.recon[0].numel())
    return {"model": key[0], "d": key[1], "train_psnr": _number(fit.train_psnr),
            "heldout_psnr": _number(fit.psnr), "heldout_mse": _number(fit.mse),
            "heldout_log_p": log_p, "heldout_bits": bits}


def _image_rows(fits, names, fold, nz):
    columns = {f"{label}_{name}": getattr(fits[key], name)
               for label, key in (("abp", ("ABP", nz)), ("pca", ("PCA", 2)), ("fa", ("FA", 2)))
               for name in ("psnr", "mse", "log_p")}
    rows = [{"image": name, "fold": i} | {key: _number(part[k]) for key, part in columns.items()}
            for k, (name, i) in enumerate(zip(names, fold, strict=True))]
    means = {key: _number(values) for key, values in columns.items()}
    return [*rows, {"image": "mean", "fold": None} | means]
