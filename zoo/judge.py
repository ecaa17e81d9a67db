"""Which kinds of animals a model draws, judged by a classifier that saw none of its training images.

The judge is a logistic regression on 8 x 8 grey images, brightness and contrast of each taken out: the one
view that every model of the zoo has. It learns from the held-out images, also mirrored and a little moved.
"""
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from evaluation import factors
from inference.measures import to_side

SIDE = 8                         # of what the judge looks at
SHIFTS = (-1 / 16, -1 / 32, 0, 1 / 32, 1 / 16)       # of a side: moves of what it learns from, both ways
LEAST_RIGHT = 0.9                # share of the training images that it must get right to be heard
LION = 0.5                       # of the factor `lion` of a drawn face, above which it is one


class Verdict(NamedTuple):
    """What the judge says of images."""
    rarest: float                # share of the kind that is judged the rarest
    confidence: float            # mean probability of the kind that is judged, 1 / (number of kinds) .. 1


def kinds(folder, names):
    """The kind of each image of a folder, a list of texts; None if there are not two kinds of two images.

    names  of its files. A kind is what factors.csv says of a drawn face, or else what a file name begins
           with: lion_01.jpg is a lion.
    Raises UserError if factors.csv is there and broken.
    """
    known = factors.read(folder, names)
    if known:
        found = ["lion" if lion > LION else "tiger" for lion in known["lion"]]
    else:
        found = [re.match(r"[^\W\d_]*", Path(name).stem).group().lower() for name in names]
    counts = Counter(found)
    return found if len(counts) > 1 and min(counts.values()) > 1 else None


class Judge:
    """Learns from images (n, 3, S, S) in [-1, 1] and their kinds, a list of n texts of at least two kinds."""

    def __init__(self, images, kinds):
        moves = [round(share * images.shape[-1]) for share in SHIFTS]
        shown = [images.roll((i, j), (2, 3)) for i in moves for j in moves]
        seen = torch.cat([part for x in shown for part in (x, x.flip(3))])
        self.net = LogisticRegression(C=0.1, max_iter=1000).fit(_features(seen), list(kinds) * 2 * len(shown))

    def right(self, images, kinds):
        """Share of images (n, 3, S, S) that it takes for what they are."""
        return float(np.mean(self.net.predict(_features(images)) == np.array(kinds)))

    def verdict(self, images):
        """What it says of images (n, 3, S, S) -> Verdict."""
        p = self.net.predict_proba(_features(images))                                          # (n, kinds)
        shares = np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)
        return Verdict(float(shares.min()), float(p.max(1).mean()))


def _features(images):
    small = to_side(images, SIDE).mean(1).flatten(1)
    return ((small - small.mean(1, keepdim=True)) / (small.std(1, keepdim=True) + 1e-3)).numpy()
