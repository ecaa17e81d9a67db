"""Images that training never saw: leave-k-out reconstruction by ABP and by the linear models.

Each fold holds out k images, trains on the rest, and infers the held-out images' latents with the weights
fixed. A model that only memorised its images would do no better than the nearest of them. log p of the
held-out images is at the noise that is the likeliest for the rest, for ABP (by quadrature, where nz is 2) as
for the linear models: one that fits its own images closely and others badly pays for the small noise.
"""
import dataclasses
import math
from typing import NamedTuple

import torch
from tqdm import tqdm

from abp import ABP, DTYPES
from evaluation import linear
from evaluation.likelihood import Joint
from evaluation.modes import find_modes, refine, survey
from evaluation.quadrature import log_evidence, ml_sigma
from inference.posterior import Posterior, frozen, sample_gaussian_prior, squared_distances
from runs.options import UserError
from runs.tables import write_tables
from utils import MOST_RECON, generate, psnr, save_recon

N_DRAWS = 512              # draws of the prior that are tried as an image's latent ...
N_STARTS = 8               # ... and how many of them are refined
AT_ONCE = 64               # images that go through the network together
LEAST_REST = 3             # training images that PCA with two components needs
NEAREST = "nearest training image"
HEADS = {"image": "image", "fold": "fold", "model": "model", "d": "d", "abp_psnr": "ABP: PSNR [dB]",
         "abp_mse": "ABP: MSE", "pca_psnr": "PCA, d = 2: PSNR [dB]", "pca_mse": "PCA, d = 2: MSE",
         "fa_psnr": "FA, d = 2: PSNR [dB]", "fa_mse": "FA, d = 2: MSE", "train_psnr": "training PSNR [dB]",
         "abp_log_p": "ABP: log p [nats]", "pca_log_p": "PCA, d = 2: log p [nats]",
         "fa_log_p": "FA, d = 2: log p [nats]", "heldout_psnr": "held-out PSNR [dB]",
         "heldout_mse": "held-out MSE", "heldout_log_p": "held-out log p [nats]",
         "heldout_bits": "held-out bits/dim"}
FORMS = {key: {"psnr": ".2f", "mse": ".5f", "_p": ".0f", "bits": ".3f"}[ending] for key in HEADS
         for ending in ("psnr", "mse", "_p", "bits") if key.endswith(ending)}


class Fit(NamedTuple):
    """How a model, fitted on the rest, reconstructs: r training images and h held-out ones."""
    train_psnr: torch.Tensor       # (r,), dB
    recon: torch.Tensor            # (h, 3, S, S), of the held-out images
    psnr: torch.Tensor             # (h,), dB
    log_p: torch.Tensor            # (h,), nats; nan where the model has none

    @property
    def mse(self):
        return linear.mean_squared_error(self.psnr)


def folds(n, n_folds, seed):
    """Split range(n) at random into n_folds parts, as even as can be.

    Returns a list of index tensors, sorted within; every index is in exactly one.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(n_folds)]


def run(config, images, names, folder, device, precision, n_folds):
    """Hold each of n_folds parts out: train a warm ABP on the rest, write how well all models do on the part.

    config     abp.Config of the trainings, which begin anew for each fold
    images     (n, 3, S, S) in [-1, 1], with their names
    folder     gets holdout.csv, .md, .tex, a row an image; holdout_summary.*, a row a model; holdout.png
    device, precision  of the trainings, on complete images; latents are inferred in float32
    Returns the rows of the summary. Raises UserError if too few images would be left to train on.
    """
    n = len(images)
    least = math.ceil(n / max(1, n - LEAST_REST))             # folds that leave LEAST_REST images to train on
    if n <= LEAST_REST or not max(2, least) <= n_folds <= n:
        raise UserError(f"--folds {n_folds}: cannot split {n} images and leave {LEAST_REST} to train on; " + (
            f"choose {max(2, least)} to {n}" if n > LEAST_REST else "add images"))
    if config.mask != "none":
        print(f"--mask {config.mask}: is left out; all models train and are measured on whole images")
    split = folds(n, n_folds, config.seed)
    config = dataclasses.replace(config, start="warm", mask="none")
    fits = [_fit_fold(config, images, names, part, device, precision)
            for part in tqdm(split, desc="leave-k-out", unit="fold", disable=None)]
    back = torch.cat(split).argsort()                        # from the folds' order to the images'
    together = {}
    for key in fits[0]:
        if all(key in fit for fit in fits):                  # d = 16 may need more images than a fold leaves
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
    """Latents of images that a generator was not trained on: the best mode of each posterior that is found.

    Of N_DRAWS draws of the prior, the same for all images and each time, each image's N_STARTS of least U
    begin descents, and the lowest end wins. net as posterior.frozen returns it; images (n, 3, S, S), on any
    device. Returns z (n, nz) on the network's device.
    """
    device = next(net.parameters()).device
    images = images.to(device)
    generator = torch.Generator().manual_seed(config.seed)
    draws = sample_gaussian_prior(N_DRAWS, config.nz, config.prior_sigma, generator).to(device)
    distances = torch.cat([squared_distances(images, net(part)) for part in draws.split(AT_ONCE)], 1)
    energy = distances / (2 * config.mse_sigma**2) + draws.square().sum(1) / (2 * config.prior_sigma**2)
    start = draws[energy.topk(N_STARTS, largest=False).indices].flatten(0, 1)
    image_of = torch.arange(len(images), device=device).repeat_interleave(N_STARTS)

    def local(index, z):
        values = [Posterior(net, images[image_of[i]], config.mse_sigma, config.prior_sigma).local(part)
                  for i, part in zip(index.split(AT_ONCE), z.split(AT_ONCE), strict=True)]
        return tuple(torch.cat(value) for value in zip(*values, strict=True))

    z, energy, _, _ = refine(local, start)
    best = energy.view(-1, N_STARTS).argmin(1)
    return z.view(-1, N_STARTS, config.nz)[torch.arange(len(images), device=device), best]


def _fit_fold(config, images, names, held_out, device, precision):
    """{(model, d): Fit} of every model, fitted on all images but those with the indices `held_out`."""
    rest = [i for i in range(len(images)) if i not in set(held_out.tolist())]
    train, test = images[rest], images[held_out]
    model = ABP(config, train, "warm", device, precision, [names[i] for i in rest])
    for _ in model.train():
        pass
    net = frozen(model.net)
    z = infer(net, test, config)
    none = torch.full((len(test),), math.nan, dtype=torch.float64)
    log_p = none if config.nz != 2 else log_density(
        net, config.prior_sigma, train, model.z.cpu(), test, z.cpu(), DTYPES[precision])
    fits = {("ABP", config.nz): _fit(train, generate(net, model.z), test, generate(net, z), log_p)}
    fits |= {(m.name, len(m.weights)): _fit(train, m.reconstruct(train), test, m.reconstruct(test),
                                            m.log_density(test)) for m in linear.fit_all(train)}
    nearest = train[squared_distances(test, train).argmin(1)]
    return fits | {(NEAREST, None): _fit(train, train, test, nearest, none)}     # an image is its own nearest


def log_density(net, prior_sigma, train, train_z, test, test_z, search=torch.float32):
    """log p of held-out images at the sigma that is the likeliest for the training images -> (h,), nats.

    net on any device; train (r, 3, S, S) and test (h, 3, S, S) with latents (r, 2) and (h, 2) from which
    modes are searched for too; search: dtype of the searches.
    """
    seen = Joint(net, train, prior_sigma, search)
    sigma, _ = ml_sigma(seen, survey(seen), train_z)
    joint = Joint(net, test, prior_sigma, search)
    plane = survey(joint)
    return log_evidence(joint, plane, find_modes(joint, plane, sigma, test_z), sigma).log_p


def _fit(train, train_recon, test, recon, log_p):
    return Fit(psnr(train, train_recon), recon.double(), psnr(test, recon), log_p)


def _summary_row(key, fit):
    train_psnr, log_p = fit.train_psnr.mean().item(), fit.log_p.mean().item()
    known = math.isfinite(log_p)
    return {"model": key[0], "d": key[1], "train_psnr": train_psnr if math.isfinite(train_psnr) else None,
            "heldout_psnr": fit.psnr.mean().item(), "heldout_mse": fit.mse.mean().item(),
            "heldout_log_p": log_p if known else None,
            "heldout_bits": linear.bits_per_dim(log_p, fit.recon[0].numel()) if known else None}


def _image_rows(fits, names, fold, nz):
    columns = {}
    for label, key in (("abp", ("ABP", nz)), ("pca", ("PCA", 2)), ("fa", ("FA", 2))):
        for name in ("psnr", "mse", "log_p"):
            values = getattr(fits[key], name)
            columns[f"{label}_{name}"] = [None if math.isnan(value) else value
                                          for value in (*values.tolist(), values.mean().item())]
    return [{"image": name, "fold": i} | {key: values[row] for key, values in columns.items()}
            for row, (name, i) in enumerate(zip([*names, "mean"], [*fold, None], strict=True))]
