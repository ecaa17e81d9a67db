"""Image folders, and the files of a run, written atomically: records, tables, checkpoints."""
import csv
import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import torch

from runs.options import UserError

ROOT = Path(__file__).resolve().parent.parent
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
CHECKPOINT = {                       # its keys and their types
    "config": dict, "epoch": int, "smooth": int, "generator": dict, "optimizer": dict,
    "z": torch.Tensor, "step": torch.Tensor, "image_names": list, "history": list, "rng": dict}


def set_seed(seed):
    """Seed Python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def data_folder(config):
    """The folder of --data; without it the drawn faces of the repository."""
    return Path(config.data) if config.data else ROOT / "data" / "drawn"


def list_images(folder):
    """Image files of a folder, sorted by name. Raises UserError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder; give a folder of images")
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
                       and not p.name.startswith(".") and p.is_file())
    except OSError as error:
        raise UserError(f"--data {folder}: cannot be read ({error.strerror}); "
                        "check its permissions") from None
    if not paths:
        raise UserError(f"--data {folder}: holds no image; "
                        f"put {', '.join(sorted(IMAGE_SUFFIXES))} files there")
    return paths


def hash_images(folder):
    """{file name: first 16 hex digits of its SHA-256}, sorted by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in list_images(folder)}


# ------------------------------------------------------------------------------------ run folders

def new_run_folder(out, record, parent):
    """Make a run folder with its config.json in one step -> its path.

    out     the folder to make, or "" for the next free parent/001, parent/002, ...
    record  the content of config.json
    Raises UserError if the folder is not empty or cannot be made; no run is overwritten.
    """
    taken = [int(p.name) for p in Path(parent).glob("[0-9]*") if p.name.isdigit()]
    target = Path(out) if out else Path(parent) / f"{max(taken, default=0) + 1:03d}"
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        kind = "a folder that is not empty" if target.is_dir() else "a file"
        raise UserError(f"--out {target}: is {kind}; name a new folder, or continue it: "
                        f"--resume {target}")
    draft = target.absolute().with_name(f".{target.absolute().name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        write_json(draft / "config.json", record)
        draft.rename(target)                    # one step: a kill leaves a whole run folder or none
    except (OSError, UserError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not out and target.exists():            # another run took the number in the meantime
            return new_run_folder(out, record, parent)
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--out {target}: cannot be made ({reason}); choose another") from None
    return target


def write_atomic(path, data):
    """Write bytes or text to a file, whole or not at all. Raises UserError if it cannot."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.tmp")
    data = data.encode() if isinstance(data, str) else data
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose "
                        "another --out, then continue with --resume") from None


def write_json(path, values):
    write_atomic(path, json.dumps(values, indent=2) + "\n")


def read_json(path):
    """A JSON object from a file. Raises UserError if it is missing or not valid."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a run folder") from None
    except ValueError:
        raise UserError(f"{path}: is not valid JSON; start a new run") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is not a record of a run; start a new run")
    return values


def write_csv(path, rows):
    """A list of dicts with the same keys as CSV; an empty list gives an empty file."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(path, text.getvalue())


def append_csv(path, row):
    """Append a dict to a CSV file, with a header if the file is empty."""
    if not Path(path).stat().st_size:
        return write_csv(path, [row])
    with open(path, "a", encoding="utf-8") as file:
        file.write(",".join(str(value) for value in row.values()) + "\n")


def half_way(snapshots, n_epochs):
    """Epoch and path of the snapshot recon.png nearest to n_epochs / 2; None if there is none."""
    paths = {int(p.name.split("_")[0]): p for p in snapshots.glob("*_recon.png")}
    epochs = [epoch for epoch in paths if epoch < n_epochs]
    if not epochs:
        return None
    epoch = min(epochs, key=lambda e: abs(e - n_epochs / 2))
    return epoch, paths[epoch]


# ------------------------------------------------------------------------------------ checkpoints

def save_checkpoint(path, checkpoint):
    """Write a checkpoint (a dict of plain types and tensors, see CHECKPOINT) atomically."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path):
    """A checkpoint, on the CPU. Unpickles tensors and plain types only; UserError if invalid."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the folder of a start, "
                        "such as output/001/warm") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds objects other than tensors and plain values, and was not "
                        "opened; use a checkpoint that this program wrote") from None
    except Exception:                  # torch.load raises many types for a damaged file
        raise UserError(f"{path}: is damaged; delete it and --resume to train anew") from None
    if not isinstance(checkpoint, dict) or not all(
            isinstance(checkpoint.get(name), kind) for name, kind in CHECKPOINT.items()):
        raise UserError(f"{path}: is not a checkpoint of this program; use one that it wrote")
    return checkpoint


def load_weights(net, checkpoint, path):
    """Load the weights of a checkpoint into a generator. Raises UserError if they do not fit."""
    try:
        net.load_state_dict(checkpoint["generator"])
    except (RuntimeError, TypeError):
        raise UserError(f"{path}: does not fit the generator; restore its models.py") from None


def save_model(model, path):
    """Save all that `restore` needs to continue an ABP model bit for bit."""
    save_checkpoint(path, {
        "config": dataclasses.asdict(model.config), "epoch": model.epoch, "smooth": model.smooth,
        "generator": model.net.state_dict(), "optimizer": model.optimizer.state_dict(),
        "z": model.z, "step": model.step, "image_names": model.names, "history": model.history,
        "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}})


def restore(model, path, may_change=()):
    """Load a checkpoint into an ABP model. Raises UserError if it is damaged, or if its images or
    an option outside `may_change` differ."""
    checkpoint = load_checkpoint(path)
    theirs, ours = checkpoint["config"], dataclasses.asdict(model.config)
    differs = [k for k in ours if k not in may_change and theirs.get(k) != ours[k]]
    if differs or checkpoint["image_names"] != model.names:
        what = f"--{differs[0]}" if differs else "the images"
        raise UserError(f"{path}: was made with another configuration ({what}); put the right file "
                        "back or delete it, and --resume")
    if checkpoint["epoch"] > model.config.n_epochs:
        raise UserError(f"--n_epochs must be at least {checkpoint['epoch']}, the epochs already "
                        "done")
    load_weights(model.net, checkpoint, path)
    try:
        model.optimizer.load_state_dict(checkpoint["optimizer"])
        model.z.copy_(checkpoint["z"])
        model.step.copy_(checkpoint["step"])
        torch.set_rng_state(checkpoint["rng"]["cpu"])
        torch.cuda.set_rng_state_all(checkpoint["rng"]["cuda"])
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it and --resume") from None
    model.epoch, model.history = checkpoint["epoch"], checkpoint["history"]
