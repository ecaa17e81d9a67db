"""A sheet of images, one row per model, and a table that compares the models.

Every model is trained on the same images at SIDE x SIDE and draws N_SAMPLES images. A quantity that
a model does not define stays empty.
"""
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from evaluation.linear import bits_per_dim
from inference.measures import to_side
from runs.files import ROOT, hash_images, save_checkpoint, set_seed, write_atomic, write_json
from runs.latex import escape, macros
from runs.options import UserError
from runs.tables import write_tables
from utils import load_img_tensors, save_recon
from zoo.classifier import LEAST_ACCURACY, Classifier, kinds
from zoo.metrics import nearest, pair_distance

SIDE, N_SHOWN, N_SAMPLES = 64, 12, 200
HELD_OUT = 4                       # every fourth image is held out
SEED = 0
DRAWN = "data/drawn"               # the images that come with the program
LOG_P = {"exact": "exact", "quadrature": "estimate", "levels": "exact, levels", "": None}
HEADS = {"model": "model", "parameters": "params", "seconds": "CPU s", "view": "output",  # README
         "log_p": "log p [nats]", "bits": "bits/dim", "level_bits": "level bits",
         "log_p_is": "log p is", "spread": "spread", "copying": "novelty", "rarest": "rarest",
         "confidence": "conf."}
SAMPLED = ("spread", "copying", "rarest", "confidence")      # columns measured on samples
DENSITY = ("log_p", "bits", "level_bits", "log_p_is")        # columns measured on held-out images
FORMS = {"seconds": ".0f", "log_p": ".0f", "bits": ".3f", "level_bits": ".3f"} | dict.fromkeys(
    SAMPLED, ".2f")


class Entry(NamedTuple):
    """One model of the sheet.

    train(images (n, 3, SIDE, SIDE) in [-1, 1]) returns the trained model, which has n_parameters
    and sample(n) -> (n, 3, s, s), s a power of two. Seeds are set before.
    """
    label: str
    train: Callable
    likelihood: str = ""           # "exact", "quadrature": it has log_prob(images) -> (n,), nats;
                                   # "levels": it has bits_per_dim(images) -> float; "": neither
    view: str = ""                 # what the model draws, if it is not the pixels of an s x s image
    seen: Callable | None = None   # images -> images, encoded and decoded as for the model
    needs_kinds: bool = False      # train takes the kinds, n texts, as second argument
    fills: bool = False            # instead of sample: fill and masked, images -> images


class Split(NamedTuple):
    """Images (n, 3, SIDE, SIDE) in [-1, 1] and their kinds, lists of texts, empty if unknown."""
    train: torch.Tensor
    test: torch.Tensor
    train_kinds: list
    test_kinds: list


def make(entries, data, out, stem="animals", reuse=False):
    """Train models on a folder of images and compare them; returns the path of the Markdown table.

    entries  {name: Entry}; entries that need kinds are skipped, with a line, if there are none
    data     folder of images; out: folder to write to
    reuse    read rows and samples from out/rows/NAME.pt if they are of the same images

    Writes out/STEM.png, the sheet; STEM.csv, .md and .tex, the table; STEM.json, the table and its
    settings; STEM_macros.tex, the settings for LaTeX; and rows/NAME.pt after each model.
    Raises UserError if the folder is missing or broken, has too few images, or no model is left.
    """
    split, out = _split(data), Path(out)
    classifier, accuracy = _classifier(split)
    n = len(split.train)                # evenly spaced: a folder sorted by kind shows each kind
    shown = {"real": split.train[torch.linspace(0, n - 1, min(n, N_SHOWN)).round().long()]}
    rows, hashes = [_real(split, classifier)], hash_images(data)
    for name, entry in entries.items():
        if entry.needs_kinds and not split.train_kinds:
            unable = (f"--data {data}: {entry.label} needs the kinds of the images: a factors.csv, "
                      "or file names such as lion_01.jpg, with two or more images of each kind")
            if len(entries) == 1:
                raise UserError(unable)
            print(f"{unable}; skipped", flush=True)
            continue
        kept = _trained(name, entry, split, out, hashes, reuse)
        row, samples = kept["row"], kept["samples"].float()
        if entry.seen:
            levels = row["view"].split(", ")[-1]               # "16 greys"
            shown.setdefault(levels, to_side(entry.seen(shown["real"]), SIDE))
        if entry.fills:
            shown["to fill"] = to_side(kept["masked"].float(), SIDE)
            row |= dict.fromkeys(SAMPLED)
        else:
            view = entry.seen or partial(to_side, side=samples.shape[-1])
            row |= _of_samples(samples, view, split, classifier)
        shown[row["model"]] = to_side(samples[:N_SHOWN], SIDE).clamp(-1, 1)
        rows.append(row)
        print(f"{row['model']}: {row['seconds']:.0f} CPU seconds", flush=True)
    drawn = Path(data).resolve() == (ROOT / DRAWN).resolve()
    settings = {"data": DRAWN if drawn else str(data), "side": SIDE, "train": len(split.train),
                "heldout": len(split.test), "samples": N_SAMPLES, "accuracy": accuracy}
    save_recon(shown, out / f"{stem}.png")
    write_tables(out, stem, rows, HEADS, FORMS)
    write_json(out / f"{stem}.json", settings | {"rows": rows})
    write_atomic(out / f"{stem}_macros.tex", _macros(settings))
    return out / f"{stem}.md"


def _macros(settings):
    """LaTeX macros zooData, zooSide, zooTrain, zooHeldout, zooSamples, zooAccuracy (in %)."""
    accuracy = settings["accuracy"]
    texts = settings | {"accuracy": "--" if accuracy is None else f"{100 * accuracy:.0f}"}
    texts["data"] = escape(settings["data"], breakable=True)
    return macros({f"zoo{name.capitalize()}": str(text) for name, text in texts.items()})


def _split(data):
    images, names = load_img_tensors(data, SIDE)
    held = torch.arange(len(images)) % HELD_OUT == HELD_OUT - 1
    if held.sum() < 2:
        raise UserError(f"--data {data}: {len(images)} images are too few; add images, the sheet "
                        f"needs {2 * HELD_OUT}")
    known = kinds(data, names) or []
    train_kinds, test_kinds = ([kind for kind, out in zip(known, held, strict=False) if out == part]
                               for part in (False, True))
    if not set(train_kinds) == set(test_kinds):            # each part must hold every kind
        train_kinds = test_kinds = []
    return Split(images[~held], images[held], train_kinds, test_kinds)


def _classifier(split):
    """A classifier of the kinds, None if inaccurate, and its accuracy on the training images."""
    if not split.test_kinds:
        return None, None
    classifier = Classifier(split.test, split.test_kinds)
    accuracy = classifier.accuracy(split.train, split.train_kinds)
    return (classifier if accuracy >= LEAST_ACCURACY else None), accuracy


def _trained(name, entry, split, out, hashes, reuse):
    """Read a model's row and images from rows/NAME.pt, or train the model and write that file.

    Returns {"key", "row", "samples": (n, 3, s, s) float16, "masked": inputs of fill or None}.
    """
    path = out / "rows" / f"{name}.pt"
    kinds = [split.train_kinds] if entry.needs_kinds else []
    key = [hashes, SIDE, SEED, *kinds]
    if reuse:
        try:
            kept = torch.load(path, weights_only=True)
            if kept["key"] == key and "masked" in kept:
                return kept
        except Exception:              # a broken file makes torch.load raise nearly anything
            pass
    set_seed(SEED)
    start = time.process_time()        # of all threads of this process
    model = entry.train(split.train, *kinds)
    row = {"model": entry.label, "parameters": model.n_parameters,
           "seconds": time.process_time() - start}
    if entry.fills:
        columns = min(len(split.train), N_SHOWN)
        images = split.test[torch.arange(columns) * len(split.test) // columns]
        samples, masked = model.fill(images), model.masked(images).half()
    else:
        samples, masked = model.sample(N_SAMPLES), None
    row["view"] = entry.view or f"{samples.shape[-2]} x {samples.shape[-1]}"
    row |= _density(model, entry.likelihood, split.test)
    kept = {"key": key, "row": row, "samples": samples.detach().half(), "masked": masked}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, kept)
    return kept


def _density(model, likelihood, test):
    """The columns DENSITY: mean over held-out images (n, 3, SIDE, SIDE)."""
    row = dict.fromkeys(DENSITY) | {"log_p_is": LOG_P[likelihood]}
    if likelihood == "levels":         # of the image at the model's own side
        row["level_bits"] = model.bits_per_dim(test)
    elif likelihood:
        row["log_p"] = model.log_prob(test).mean().item()
        row["bits"] = bits_per_dim(row["log_p"], test[0].numel())
    return row


def _of_samples(samples, view, split, classifier):
    """The columns SAMPLED of samples (n, 3, s, s), relative to real images as `view` shows them."""
    train, test = view(split.train), view(split.test)
    spread = _ratio(pair_distance(samples), pair_distance(train))
    copying = _ratio(_ratio(nearest(samples, train), nearest(samples, test)),
                     _ratio(nearest(test, train), nearest(test, test, itself=True)))
    verdict = classifier.verdict(to_side(samples, SIDE)) if classifier else (None, None)
    return dict(zip(SAMPLED, (spread, copying, *verdict), strict=True))


def _ratio(a, b):
    """a / b; None if undefined, as in a folder of identical images."""
    return a / b if a is not None and b else None


def _real(split, classifier):
    """The first row: the training images as samples."""
    empty = dict.fromkeys(("parameters", "seconds", "view", *DENSITY))
    measured = _of_samples(split.train, lambda images: images, split, classifier)
    return {"model": "real"} | empty | measured | {"copying": 1.0}
