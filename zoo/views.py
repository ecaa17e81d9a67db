"""Small images with few levels per value, and their encoding as strings."""
from inference.measures import to_side

STRING = (1, 8, 8)               # shape for models of strings: grey, read row by row
STRING_LEVELS = 16


def to_levels(images, shape, levels):
    """Images (n, 3, S, S) in [-1, 1] -> levels (n, c, h, w): averaged pixels in equal bins.

    shape  (c, h, w) with h = w; c = 3, or 1 for grey
    """
    small = to_side(images, shape[1])
    if shape[0] == 1:
        small = small.mean(1, keepdim=True)
    return ((small + 1) / 2 * levels).long().clamp(0, levels - 1)


def from_levels(x, levels):
    """Levels (n, c, h, w) -> images (n, 3, h, w): the centres of the bins; grey in all colours."""
    return ((2 * x + 1) / levels - 1).expand(-1, 3, -1, -1)


def name(shape, levels):
    """Name of a view in the table: '8 x 8, 16 greys' or '16 x 16, 8 levels'."""
    return f"{shape[1]} x {shape[2]}, {levels} {'greys' if shape[0] == 1 else 'levels'}"


def in_levels(images, shape, levels):
    """Images (n, 3, S, S) in [-1, 1] -> (n, 3, h, w), encoded and decoded."""
    return from_levels(to_levels(images, shape, levels), levels)


def to_strings(images):
    """Images (n, 3, S, S) in [-1, 1] -> strings of 64 tokens in 0 .. 15, (n, 64), int64."""
    return to_levels(images, STRING, STRING_LEVELS).flatten(1)


def in_strings(images):
    """Images (n, 3, S, S) in [-1, 1] -> (n, 3, 8, 8), grey, encoded and decoded."""
    return in_levels(images, STRING, STRING_LEVELS)


def from_strings(tokens):
    """Strings (n, 64) -> images (n, 3, 8, 8) in [-1, 1]."""
    return from_levels(tokens.unflatten(1, STRING), STRING_LEVELS)
