"""One sheet of animals, a row for each model, and one table: how they compare where they can be.

The images are split once; every model learns from the same part of them at SIDE x SIDE, and is asked for the
same number of samples. What a model cannot say stays empty.
"""
import inspect
import time
from pathlib import Path
from typing import NamedTuple

import torch

from abp import ROOT
from evaluation.linear import bits_per_dim
from inference.measures import to_side
from runs.files import hash_images, save_checkpoint, set_seed, write_atomic, write_json
from runs.latex import escape, macros
from runs.options import UserError
from runs.tables import write_tables
from utils import load_img_tensors, save_recon
from zoo import notes
from zoo.judge import LEAST_RIGHT, Judge, kinds
from zoo.measure import nearest, pair_distance

SIDE, N_SHOWN, N_SAMPLES = 64, 12, 200
HELD_OUT = 4                       # every fourth image is
DRAWN = "data/drawn"               # the images that come with the program
LABELS = {"abp": "ABP", "vae": "VAE", "gan": "GAN", "desnet": "descriptor", "fa": "FA",
          "pixelcnn": "PixelCNN", "pixelrnn": "PixelRNN", "began": "BEGAN", "bgan": "BGAN",
          "seqgan": "SeqGAN", "maskgan": "MaskGAN", "ppgn": "PPGN"}
HEADS = {"model": "model", "parameters": "parameters", "seconds": "CPU seconds", "view": "what it draws",
         "log_p": "held-out log p [nats]", "bits": "bits/dim", "level_bits": "bits/dim of its levels",
         "bound": "log p is", "spread": "pair distance / real",
         "copying": "nearest training / held-out image, over that of real",
         "rarest": "share of the rarest kind", "confidence": "judge's confidence"}
FORMS = {"seconds": ".0f", "log_p": ".0f", "bits": ".3f", "level_bits": ".3f"} | dict.fromkeys(
    ("spread", "copying", "rarest", "confidence"), ".2f")
MEASURED = ("spread", "copying", "rarest", "confidence")      # columns of what is measured of samples
SAID = ("log_p", "bits", "level_bits", "bound")       # columns of what a model says of held-out images


class Split(NamedTuple):
    """Images (n, 3, SIDE, SIDE) in [-1, 1] and their kinds, lists of texts or None."""
    train: torch.Tensor
    test: torch.Tensor
    train_kinds: list | None
    test_kinds: list | None


def make(models, data, out, stem="animals", seed=0, reuse=False):
    """Train every model of the list (modules) on a folder of images.

    Writes out/STEM.png, the sheet; out/STEM.csv, .md and .tex, the table; out/STEM_macros.tex, what a LaTeX
    report says of them; out/STEM.json, what they are of; and, as soon as a model is done, out/rows/NAME.pt,
    with which `reuse` spares the training of it the next time, if the images are the same.
    A model that must know what the images are is left out, with a line that says so, if nothing tells.
    Raises UserError if there is no folder, a broken image, or too few of them, or no model is left.
    """
    split = _split(data)
    judge = Judge(split.test, split.test_kinds) if split.test_kinds else None
    right = judge and judge.right(split.train, split.train_kinds)
    heard = judge if judge and right >= LEAST_RIGHT else None
    real = split.train[_spread(len(split.train))]
    shown, views = {"real": real}, set()
    table, fillers, steered = [_real(split, heard)], [], []
    hashes = hash_images(data)
    for module in models:
        if _needs_kinds(module) and not split.train_kinds:
            unable = f"--data {data}: {notes.UNKNOWN} {_label(module)} must know them"
            if len(models) == 1:
                raise UserError(unable)
            print(f"{unable}, and is left out", flush=True)
            continue
        steered += [_label(module)] * _needs_kinds(module)
        kept = _kept(module, split, Path(out), hashes, seed, reuse)
        row, samples = kept["row"], kept["samples"].float()
        if hasattr(module, "seen") and row["view"] not in views:
            views.add(row["view"])                 # two models may have the same
            shown[row["view"].split(", ")[-1]] = to_side(module.seen(real), SIDE)
        if kept["masked"] is None:
            row |= _of_samples(samples, _view(module, samples.shape[-1]), split, heard)
        else:
            fillers.append(row["model"])           # as many held-out images as there are columns
            shown["to fill"] = to_side(kept["masked"].float(), SIDE)
            row |= dict.fromkeys(MEASURED)
        shown[row["model"]] = to_side(samples[:N_SHOWN], SIDE).clamp(-1, 1)
        table.append(row)
        print(f"{row['model']}: {row['seconds']:.0f} CPU seconds", flush=True)
    note = notes.note(SIDE, len(split.train), len(split.test), N_SAMPLES, right,
                      len(set(split.test_kinds or ())), fillers, steered)
    _write(Path(out), stem, shown, table, {
        "data": DRAWN if Path(data).resolve() == (ROOT / DRAWN).resolve() else str(data),
        "note": note, "findings": notes.findings(table)})


def _write(folder, stem, shown, table, texts):
    save_recon(shown, folder / f"{stem}.png")
    write_tables(folder, stem, table, HEADS, FORMS)
    write_json(folder / f"{stem}.json", texts | {"rows": table})
    write_atomic(folder / f"{stem}_macros.tex", macros(
        {f"zoo{name.capitalize()}": escape(text, breakable=name == "data") for name, text in texts.items()}))


def _split(data):
    images, names = load_img_tensors(data, SIDE)
    held = torch.arange(len(images)) % HELD_OUT == HELD_OUT - 1
    if held.sum() < 2:
        raise UserError(f"--data {data}: holds {len(images)} images, too few; the sheet needs {2 * HELD_OUT}")
    known = kinds(data, names)
    train_kinds, test_kinds = ([kind for kind, out in zip(known, held, strict=True) if out == part]
                               for part in (False, True)) if known else (None, None)
    if known and not set(train_kinds) == set(test_kinds) == set(known):
        train_kinds = test_kinds = None            # there must be some of each kind in either part
    return Split(images[~held], images[held], train_kinds, test_kinds)


# -------------------------------------------------------------------------------------------------- one model

def _kept(module, split, out, hashes, seed, reuse):
    """What a model has made of the images, as its file keeps it: read from there, or made and written.

    {"key", "row": what needs the model, "samples": (n, 3, s, s) half precision, "masked": (n, 3, s, s) that a
    model which fills in was given, or None}
    """
    path = out / "rows" / f"{_name(module)}.pt"
    told = {"kinds": split.train_kinds} if _needs_kinds(module) else {}
    key = [hashes, SIDE, seed, *told.values()]
    if reuse:
        try:
            kept = torch.load(path, weights_only=True)
            if kept["key"] == key and "masked" in kept:
                return kept
        except Exception:              # a broken file makes torch.load raise nearly anything
            pass
    set_seed(seed)
    began = time.process_time()              # of all threads; other programs do not count
    model = module.animals(split.train, seed, **told)
    row = {"model": _label(module), "parameters": getattr(model, "n_parameters", None),
           "seconds": time.process_time() - began}
    if hasattr(model, "sample"):
        samples, masked = model.sample(N_SAMPLES), None
    else:
        columns = min(len(split.train), N_SHOWN)
        again = split.test[torch.arange(columns) * len(split.test) // columns]    # if few, more than once
        samples, masked = model.fill(again), model.masked(again).half()
    row["view"] = getattr(model, "view", f"{samples.shape[-2]} x {samples.shape[-1]}")
    row |= _density(model, split.test)
    kept = {"key": key, "row": row, "samples": samples.detach().half(), "masked": masked}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, kept)
    return kept


def _density(model, test):
    """What a model says of images that it has not seen; what it cannot say is None."""
    said = dict.fromkeys(SAID)
    if hasattr(model, "bits_per_dim"):     # of levels at its own size
        return said | {"level_bits": model.bits_per_dim(test), "bound": "exact"}
    if hasattr(model, "log_prob"):
        log_p = model.log_prob(test).mean().item()
        return said | {"log_p": log_p, "bits": bits_per_dim(log_p, test[0].numel()),
                       "bound": "exact" if model.exact else "a lower bound"}
    return said


def _view(module, side):
    """How a model sees images (n, 3, SIDE, SIDE): a function to (n, 3, side, side)."""
    return getattr(module, "seen", lambda images: to_side(images, side))


def _of_samples(samples, view, split, judge):
    """What is measured of samples (n, 3, s, s), beside real images as `view` shows them."""
    train, test = view(split.train), view(split.test)
    spread = _over(pair_distance(samples), pair_distance(train))
    copying = _over(_over(nearest(samples, train), nearest(samples, test)),
                    _over(nearest(test, train), nearest(test, test, itself=True)))
    verdict = judge.verdict(to_side(samples, SIDE)) if judge else (None, None)
    return dict(zip(MEASURED, (spread, copying, *verdict), strict=True))


def _over(a, b):
    """a / b; None where that says nothing: where images are copies of each other, and b is 0."""
    return a / b if a is not None and b else None


def _real(split, judge):
    """The first row: what the columns would be if samples were real."""
    nothing = dict.fromkeys(("parameters", "seconds", "view", *SAID))
    measured = _of_samples(split.train, lambda images: images, split, judge)
    return {"model": "real"} | nothing | measured | {"copying": 1.0}


def _needs_kinds(module):
    """Whether a model learns what the images are, too."""
    return "kinds" in inspect.signature(module.animals).parameters


def _name(module):
    return module.__name__.split(".")[-1]


def _label(module):
    return LABELS.get(_name(module), _name(module))


def _spread(n):
    """N_SHOWN of n places, evenly, so that images that are sorted by kind are all represented."""
    return torch.linspace(0, n - 1, min(n, N_SHOWN)).round().long()
