"""A classifier of kinds of animals, fitted to the held-out images, their mirror images and shifts.

It is a logistic regression on 8 x 8 grey images with normalised brightness and contrast.
"""
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from evaluation import factors
from inference.measures import to_side

SIDE = 8                         # of the images that are classified
SHIFTS = (-1 / 16, -1 / 32, 0, 1 / 32, 1 / 16)       # in both directions, fractions of the side
LEAST_ACCURACY = 0.9             # on the training images; a worse classifier is not used
LION = 0.5                       # least factor `lion` of a drawn face that counts as a lion


def kinds(folder, names):
    """The kind of each image of a folder, a list of texts; None unless two kinds have two images.

    names  of the image files. Kinds are from factors.csv, or else the first letters of the file
           name: lion_01.jpg is a lion.
    Raises UserError if factors.csv is broken.
    """
    known = factors.read(folder, names)
    if known:
        found = ["lion" if lion > LION else "tiger" for lion in known["lion"]]
    else:
        found = [re.match(r"[^\W\d_]*", Path(name).stem).group().lower() for name in names]
    counts = Counter(found)
    return found if len(counts) > 1 and min(counts.values()) > 1 else None


class Classifier:
    """Fitted to images (n, 3, S, S) in [-1, 1] and their kinds, n texts of at least two kinds."""

    def __init__(self, images, kinds):
        shifts = [round(shift * images.shape[-1]) for shift in SHIFTS]
        moved = [images.roll((i, j), (2, 3)) for i in shifts for j in shifts]
        x = torch.cat([part for images in moved for part in (images, images.flip(3))])
        labels = list(kinds) * 2 * len(moved)
        self.net = LogisticRegression(C=0.1, max_iter=1000).fit(_features(x), labels)

    def accuracy(self, images, kinds):
        """Fraction of images (n, 3, S, S) whose kind is predicted correctly."""
        return float(np.mean(self.net.predict(_features(images)) == np.array(kinds)))

    def verdict(self, images):
        """Fraction of images (n, 3, S, S) of the rarest kind; mean confidence of predictions."""
        p = self.net.predict_proba(_features(images))                    # (n, kinds)
        fractions = np.bincount(p.argmax(1), minlength=p.shape[1]) / len(p)
        return float(fractions.min()), float(p.max(1).mean())


def _features(images):
    small = to_side(images, SIDE).mean(1).flatten(1)
    centred = small - small.mean(1, keepdim=True)
    return (centred / (small.std(1, keepdim=True) + 1e-3)).numpy()
