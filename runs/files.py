"""Files of a run: image folders, run folders, records, tables and checkpoints, written atomically."""
import csv
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

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
CHECKPOINT = {                                                                            # what it holds
    "config": dict, "epoch": int, "generator": dict, "optimizer": dict, "z": torch.Tensor,
    "step": torch.Tensor, "image_names": list, "history": list, "rng": dict}


def set_seed(seed):
    """Seed Python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_rng(device):
    """The states of torch's global generators that a run on `device` draws from: a dict of tensors."""
    cuda = torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else torch.empty(0)
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng(states, device):
    """Put the generators back where `get_rng` found them."""
    torch.set_rng_state(states["cpu"])
    if torch.device(device).type == "cuda" and len(states["cuda"]):
        torch.cuda.set_rng_state(states["cuda"], device)


def list_images(folder):
    """The image files of a folder, sorted by name.

    Raises UserError if the folder is missing, unreadable or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder; give a folder of images")
    try:
        paths = sorted(p for p in folder.iterdir()
                       if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file())
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


# ------------------------------------------------------------------------------------------------ run folders

def new_run_folder(out, record, parent):
    """Make the folder of a run, complete with its config.json, or nothing at all. Returns its path.

    out     the folder to make, or "" for the next free parent/001, parent/002, ...
    record  what config.json shall hold
    Raises UserError if it exists already or cannot be made: an earlier run is never overwritten.
    """
    target = Path(out) if out else _next_free(Path(parent))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        kind = "a folder that is not empty" if target.is_dir() else "a file"
        raise UserError(f"--out {target}: is {kind}; name a new folder, or go on with it: --resume {target}")
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
        raise UserError(f"--out {target}: cannot be made ({reason}); choose another folder") from None
    return target


def _next_free(parent):
    taken = [int(p.name) for p in parent.glob("[0-9]*") if p.name.isdigit()] if parent.is_dir() else []
    return parent / f"{max(taken, default=0) + 1:03d}"


def write_atomic(path, data):
    """Write bytes or text to a path: readers, a kill or a full disk see the old file or the new, no half."""
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
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another --out, "
                        "then go on with --resume") from None


def write_json(path, values):
    write_atomic(path, json.dumps(values, indent=2) + "\n")


def read_json(path):
    """A JSON object from a file. Raises UserError if there is none or it is broken."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is this a run folder?") from None
    except ValueError:
        raise UserError(f"{path}: is not valid JSON; start a new run") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is not a record of a run; start a new run")
    return values


def write_table(path, rows):
    """A list of dicts with the same keys as CSV; an empty list gives an empty file."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(path, text.getvalue())


# ------------------------------------------------------------------------------------------------ checkpoints

def save_checkpoint(path, checkpoint):
    """Write a checkpoint (a dict of plain types and tensors, see CHECKPOINT) atomically."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path):
    """A checkpoint as saved, on the CPU. Nothing but plain types and tensors is ever unpickled.

    Raises UserError if the file is missing or truncated, holds other objects, or is no checkpoint of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is this a run folder?") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds objects other than tensors and plain values, and was not opened; "
                        "use a checkpoint that this program wrote") from None
    except Exception:                  # random bytes make torch.load raise nearly anything
        raise UserError(f"{path}: is damaged; delete it and --resume to train this start anew") from None
    if not isinstance(checkpoint, dict) or not all(
            isinstance(checkpoint.get(name), kind) for name, kind in CHECKPOINT.items()):
        raise UserError(f"{path}: is not a checkpoint of this program; use one that it wrote")
    return checkpoint
