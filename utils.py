"""Images in; run folders, logs, tables and checkpoints out. No algorithm here; figures are in figures.py."""
import csv
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from options import UserError

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


def sample_gaussian_prior(batch_size, nz, sig=1.0, generator=None):
    """z ~ N(0, sig^2 I): (batch_size, nz) float32 on the CPU, from the given or the global generator."""
    return sig * torch.randn(batch_size, nz, generator=generator)


def squared_distances(a, b, mask=None):
    """|a_i - b_k|^2 over all pixels: (n, 3, S, S), (m, 3, S, S) -> (n, m).

    With a mask (n, 1, S, S) of 1 and 0 over the pixels of a_i where it is 1, by two matrix products:
    sum_p m_ip |a_ip - b_kp|^2 = sum_p m_ip |a_ip|^2 - 2 sum_p m_ip a_ip . b_kp + sum_p m_ip |b_kp|^2.
    """
    a, b = (images.movedim(1, -1) for images in (a, b))   # flat without a copy if channels are last in memory
    if mask is None:
        return torch.cdist(a.flatten(1), b.flatten(1)).square()
    mask = mask.movedim(1, -1)
    seen = a * mask
    squares = seen.flatten(1).square().sum(1, keepdim=True) + mask.flatten(1) @ b.square().sum(3).flatten(1).T
    cross = seen.flatten(1) @ b.flatten(1).T
    return (squares - 2 * cross).clamp(min=0)             # rounding may leave what is nearly 0 below it


# -------------------------------------------------------------------------------------------------- images in

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


def load_image(path, img_size, resampling=Image.Resampling.LANCZOS):
    """One file as a (3, img_size, img_size) float32 tensor in [-1, 1]: 0 -> -1, 255 -> 1.

    Turned as its EXIF orientation says, first frame of an animation, transparency laid on white, grey and
    palette and CMYK made RGB, 16 bits brought to 8, cropped square at the centre, resized (with antialiasing,
    unless another of Pillow's ways is given).
    Raises UserError naming the file if it is no image, is truncated, or is above Pillow's limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)         # odd metadata is none of the user's concern
            with Image.open(path) as file:
                image = _to_rgb(_upright(file))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels; "
                        "make it smaller or take it out of the folder") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:     # all of these are Pillow's "broken"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as an image ({reason.replace(repr(str(path)), 'it')}); "
                        "mend it or take it out of the folder") from None
    image = ImageOps.fit(image, (img_size, img_size), resampling)
    return to_tensor(image)


def _upright(image):
    try:
        return ImageOps.exif_transpose(image)
    except struct.error:               # EXIF data too broken to be read: the picture stays as it lies
        return image


def _to_rgb(image):
    if image.mode.startswith("I;16") or image.mode == "I":     # 16-bit grey: convert() would clip it to white
        grey = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_tensor(image):
    """A PIL RGB image (w, h) as a float32 tensor (3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_pixels(images):
    """Images (..., 3, h, w) in [-1, 1] as a uint8 array (..., h, w, 3): a fixed range, never stretched."""
    pixels = ((images.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return pixels.byte().movedim(-3, -1).numpy()


def to_side(images, side):
    """Images (n, 3, S, S) at another side, powers of two both: pixels averaged, or repeated."""
    factor = images.shape[-1] // side
    if factor > 1:
        return torch.nn.functional.avg_pool2d(images, factor)
    factor = side // images.shape[-1]
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def load_img_tensors(folder, img_size):
    """All images of a folder, sorted by file name: (n, 3, img_size, img_size) in [-1, 1], and their names.

    Raises UserError as `list_images` and `load_image` do.
    """
    paths = list_images(folder)
    images = torch.empty(len(paths), 3, img_size, img_size)
    for i, path in enumerate(paths):
        images[i] = load_image(path, img_size)
    return images, [p.name for p in paths]


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
