"""Masks of the training images, 1 visible and 0 hidden, and errors on hidden pixels."""
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from runs.options import UserError

MEANING = ("none, pepper:P (each pixel hidden with probability P), block:K (a K x K block hidden) "
           "or an image file, black where pixels are hidden")


def parse_mask(text, img_size):
    """The kind and value of a mask: ("none", None), ("pepper", P), ("block", K) or ("file", path).

    img_size in pixels. A file is not opened. UserError if text is empty, P or K out of range.
    """
    kind, _, value = text.partition(":")
    if kind == "none" and text == kind:
        return kind, None
    if kind == "pepper":
        return kind, _number(text, value, float, lambda p: 0 <= p < 1,
                             "give pepper:P, P the fraction of hidden pixels from 0 to below 1")
    if kind == "block":
        return kind, _number(text, value, int, lambda k: 0 < k < img_size,
                             f"give block:K, K the side of the block, 1 to {img_size - 1} pixels")
    if not text:
        raise UserError(f"--mask is empty; give {MEANING}")
    return "file", Path(text)


def _number(text, value, kind, allows, remedy):
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not allows(number):
        raise UserError(f"--mask {text}: is no mask; {remedy}")
    return number


def make_mask(text, n, img_size, seed):
    """The mask of n images (n, 1, img_size, img_size), float32, 1 visible and 0 hidden, or None.

    none      None: every pixel is visible
    pepper:P  each pixel of each image is hidden with probability P, in all three colours
    block:K   a K x K block of each image is hidden, uniform over all positions
    a file    pixels from half brightness on are visible, in every image; cropped square at the
              centre, resized to the nearest pixel
    Uses a separate random generator with the given seed. Raises UserError if the text or file is
    invalid or an image has no visible pixel.
    """
    kind, value = parse_mask(text, img_size)
    generator = torch.Generator().manual_seed(seed)
    if kind == "none":
        return None
    if kind == "pepper":
        visible = torch.rand(n, 1, img_size, img_size, generator=generator) >= value
    elif kind == "block":
        top, left = torch.randint(img_size - value + 1, (2, n, 1, 1, 1), generator=generator)
        column = torch.arange(img_size)
        row = column.view(-1, 1)
        visible = (row < top) | (row >= top + value) | (column < left) | (column >= left + value)
    else:
        visible = _read(value, img_size).expand(n, 1, -1, -1)
    if not visible.flatten(1).any(1).all():
        raise UserError(f"--mask {text}: hides every pixel of an image; " + (
            "paint visible pixels white" if kind == "file" else "hide a smaller fraction"))
    return None if visible.all() else visible.float()


def _read(path, img_size):
    if not path.is_file():
        raise UserError(f"--mask {path}: no such file; give {MEANING}")
    try:
        with Image.open(path) as file:
            grey = ImageOps.exif_transpose(file).convert("L")
    except (OSError, ValueError, SyntaxError, EOFError):
        raise UserError(f"--mask {path}: cannot be read as an image; give one that is white where "
                        "pixels are visible and black where they are hidden") from None
    grey = ImageOps.fit(grey, (img_size, img_size), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(grey)) >= 128


def hide(images, mask):
    """Images (n, 3, S, S) in [-1, 1] with the hidden pixels of a mask (n, 1, S, S) mid grey: 0."""
    return images.masked_fill(mask == 0, 0)


def visible_fraction(mask):
    """Fraction of visible pixels of a mask (n, 1, S, S); 1.0 if mask is None."""
    return 1.0 if mask is None else mask.mean().item()


def halvings(mask):
    """-log2 of the fraction of visible pixels, rounded: `smooth` of GenNet for a mask or None."""
    return round(-math.log2(visible_fraction(mask)))


def fingerprint(mask):
    """First 16 hex digits of the SHA-256 of a mask's pixels; "" if mask is None."""
    return "" if mask is None else hashlib.sha256(mask.bool().numpy().tobytes()).hexdigest()[:16]


def hidden_error(recovered, images, mask):
    """Errors on hidden pixels; recovered and images (n, 3, S, S) in [-1, 1], mask (n, 1, S, S).

    hidden_mae       mean |error| over hidden pixels and colours, on the scale 0 to 255
    hidden_relative  sum of |error| / sum of the original values, on the same scale; the divisor is
                     at least 1
    """
    hidden = (mask == 0).expand_as(images)
    error = 127.5 * (recovered - images)[hidden].abs().double()
    total = 127.5 * (images[hidden].double() + 1)
    return {"hidden_mae": error.mean().item(),
            "hidden_relative": (error.sum() / total.sum().clamp(min=1)).item()}
