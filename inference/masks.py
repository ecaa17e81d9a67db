"""Visible pixels of the training images: masks of 1 (visible) and 0 (hidden), errors where 0."""
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

    img_size is the side of the images in pixels. A file is not opened. Raises UserError otherwise.
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
    pepper:P  each pixel, its three colours together, is hidden with probability P, per image
    block:K   a K x K block is hidden, per image at a place uniform over all that fit
    a file    pixels at least half as bright as white are visible, in every image; cropped square at
              the centre, resized to the nearest pixel
    Draws from a generator of its own with the given seed: a mask changes no other random number.
    Raises UserError for a text or file that is no mask, or an image with no visible pixel.
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
        inside = (row >= top) & (row < top + value) & (column >= left) & (column < left + value)
        visible = ~inside
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
    """How often a mask (n, 1, S, S) halves the number of visible pixels, rounded.

    That many of the last deconvolutions of GenNet have too few pixels to learn from.
    """
    return round(-math.log2(visible_fraction(mask)))


def fingerprint(mask):
    """First 16 hex digits of the SHA-256 of a mask's pixels; "" if mask is None."""
    return "" if mask is None else hashlib.sha256(mask.bool().numpy().tobytes()).hexdigest()[:16]


def hidden_error(recovered, images, mask):
    """Errors of recovered images where mask is 0; both (n, 3, S, S) in [-1, 1].

    hidden_mae       mean |error| over all hidden values (pixels times colours), of 0 to 255
    hidden_relative  sum of |error| over the sum of the original values, both over all hidden values
                     and of 0 to 255; the divisor is at least 1
    """
    hidden = (mask == 0).expand_as(images)
    error = 127.5 * (recovered - images)[hidden].abs().double()
    total = 127.5 * (images[hidden].double() + 1)
    return {"hidden_mae": error.mean().item(),
            "hidden_relative": (error.sum() / total.sum().clamp(min=1)).item()}
