"""One sheet of animals, a row for each model, and one table: how they compare where they can be.

The images are split once; every model learns from the same part of them at SIDE x SIDE, and is asked for the
same number of samples. What a model cannot say stays empty.
"""
import time
from pathlib import Path

import torch

from abp import ROOT
from evaluation.linear import bits_per_dim
from evaluation.tables import write_tables
from figures import save_recon
from options import UserError
from utils import hash_images, load_img_tensors, save_checkpoint, set_seed, to_side, write_json
from zoo.measure import nearest, pair_distance

SIDE, N_SHOWN, N_SAMPLES = 64, 12, 200
HELD_OUT = 4                       # every fourth image is
DRAWN = "data/drawn"               # the images that come with the program
LABELS = {"abp": "ABP", "vae": "VAE", "gan": "GAN", "desnet": "descriptor", "fa": "FA",
          "pixelcnn": "PixelCNN", "pixelrnn": "PixelRNN", "began": "BEGAN"}
HEADS = {"model": "model", "parameters": "parameters", "seconds": "seconds", "log_p": "held-out log p [nats]",
         "bits": "bits/dim", "bound": "log p is", "spread": "pair distance / real",
         "copying": "to the nearest training / held-out image"}
FORMS = {"seconds": ".0f", "log_p": ".0f", "bits": ".3f", "spread": ".2f", "copying": ".2f"}
NOTE = """
Images of {side} x {side} in [-1, 1], {n_train} to learn from and {n_test} held out; {n} samples of each.
Those of the GAN and of BEGAN are 32 x 32, pixel nets smaller yet, their pixels repeated.
log p: mean over the held-out images, of the continuous density, at the noise that is the likeliest for the
training images; models without a density have none. Models of levels give probabilities, which are no
densities: their bits/dim of the held-out images, made small and put into levels, stand beside, to be compared
only at the same size and levels. Pair distance: mean distance of two samples, over that of two training
images; near 0 all samples are the same. Last column: mean distance of samples to the nearest training image,
over that to the nearest held-out one; near 0 samples are copies. With fewer held-out images than training
images fresh ones, too, are below 1: the row of the real images says it of the held-out ones.
"""


def make(models, data, out, stem="animals", seed=0, reuse=False):
    """Train every model of the list (modules) on a folder of images.

    Writes out/STEM.png, the sheet; out/STEM.csv, .md and .tex, the table; out/STEM.json, what they are of;
    and, as soon as a model is done, out/rows/NAME.pt, with which `reuse` spares the training of it the next
    time, if the images are the same.
    Raises UserError if there is no folder, a broken image, or too few of them.
    """
    images, _ = load_img_tensors(data, SIDE)
    test = images[HELD_OUT - 1::HELD_OUT]
    train = torch.cat([part[:HELD_OUT - 1] for part in images.split(HELD_OUT)])
    if len(test) < 2:
        raise UserError(f"--data {data}: holds {len(images)} images, too few; the sheet needs {2 * HELD_OUT}")
    shown, table = {"real": train[_spread(len(train))]}, [_real(train, test)]
    out, key = Path(out), [hash_images(data), SIDE, seed]
    (out / "rows").mkdir(parents=True, exist_ok=True)
    for module in models:
        name = module.__name__.split(".")[-1]
        kept = _kept(out / "rows" / f"{name}.pt", key) if reuse else None
        if not kept:
            row, samples = _row(module, LABELS.get(name, name), train, test, seed)
            kept = {"key": key, "row": row, "samples": samples[:N_SHOWN].clone()}
            save_checkpoint(out / "rows" / f"{name}.pt", kept)
        row = kept["row"]
        shown[row["model"]] = kept["samples"].clamp(-1, 1)
        table.append(row)
        print(f"{row['model']}: {row['seconds']:.0f} s", flush=True)
    save_recon(shown, out / f"{stem}.png")
    write_tables(out, stem, table, HEADS, FORMS)
    note = NOTE.format(side=SIDE, n_train=len(train), n_test=len(test), n=N_SAMPLES).strip()
    name = DRAWN if Path(data).resolve() == (ROOT / DRAWN).resolve() else Path(data).name
    write_json(out / f"{stem}.json", {"data": name, "note": note, "rows": table})


def _row(module, label, train, test, seed):
    """Train a model and ask it for N_SAMPLES -> its row of the table, the samples."""
    set_seed(seed)
    began = time.perf_counter()
    model = module.animals(train, seed)
    seconds = time.perf_counter() - began
    samples = to_side(model.sample(N_SAMPLES).detach().float(), SIDE)
    row = {"model": label, "parameters": getattr(model, "n_parameters", None), "seconds": seconds}
    return row | _density(model, test) | _samples(samples, train, test), samples


def _kept(path, key):
    """What an earlier run left of a model on these images; None if there is nothing that can be read."""
    try:
        kept = torch.load(path, weights_only=True)
        return kept if kept["key"] == key else None
    except Exception:                  # a broken file makes torch.load raise nearly anything
        return None


def _spread(n):
    """N_SHOWN of n places, evenly, so that images that are sorted by kind are all represented."""
    return torch.linspace(0, n - 1, min(n, N_SHOWN)).round().long()


def _real(train, test):
    copying = nearest(test, train) / nearest(test, test, itself=True)
    return {"model": "real", "parameters": None, "seconds": None, "log_p": None, "bits": None, "bound": None,
            "spread": 1.0, "copying": copying}


def _density(model, test):
    if hasattr(model, "view"):             # of levels at its own size: nothing that the columns could compare
        of_levels = f"of {model.view}: {model.bits_per_dim(test):.2f} bits/dim"
        return {"log_p": None, "bits": None, "bound": of_levels}
    if not hasattr(model, "log_prob"):
        return {"log_p": None, "bits": None, "bound": None}
    log_p = model.log_prob(test).mean().item()
    return {"log_p": log_p, "bits": bits_per_dim(log_p, test[0].numel()),
            "bound": "exact" if model.exact else "a lower bound"}


def _samples(samples, train, test):
    return {"spread": pair_distance(samples) / pair_distance(train),
            "copying": nearest(samples, train) / nearest(samples, test)}
