"""What a reader is told about a sheet of animals: how to read its table, and what the table shows."""
from itertools import groupby

from zoo.classifier import LEAST_RIGHT

NOTE = """
Images of {side} x {side} in [-1, 1], {n_train} to learn from and {n_test} held out; {n} samples of each
model. What is drawn smaller is shown with its pixels repeated. Rows named by levels or greys are the real
images as the model below them saw them.
log p: mean over the held-out images, of the continuous density, at the noise that is the likeliest for the
training images; bits/dim: the same for each value of an image. Models of levels give probabilities, which are
no densities: bits/dim of its levels is of the held-out images, made small and put into levels, and can be
compared only between models that draw the same. Models without either have none.
Samples are measured beside the real images at the size, and in the levels, that the model draws. Pair
distance: mean distance of two samples, over that of two training images; near 0 all samples are the same.
Nearest: mean distance of samples to the nearest training image, over that to the nearest held-out one, and
this over the same of held-out images; near 1 samples are as new as real images, near 0 they are copies.
{judge}
"""
HEARD = """
A judge that saw only the held-out images, and takes {right:.0%} of the training images for what they are,
tells the kinds of samples apart: the share of the rarest of {n_kinds} kinds, and how sure it is; likewise of
the training images."""
UNHEARD = """
A judge that saw only the held-out images takes no more than {right:.0%} of the training images for what they
are, fewer than {least:.0%}: what it says of samples is left out."""
UNKNOWN = ("a factors.csv, or file names such as lion_01.jpg, would have to tell kinds apart, with several "
           "images of each;")
FILLS = """
{names} fills in what is missing of an image: its row has the held-out images, those to fill are above it, and
what is measured of samples is left out."""

STEERED = """
{names} knows the kinds of what it learns from, and draws one after the other in turn."""


def note(side, n_train, n_test, n, right, n_kinds, fillers=(), steered=()):
    """How to read the table: a text.

    side, n_train, n_test  of the images;  n  samples of each model
    right                  share of the training images that the judge takes for what they are; None: no judge
    n_kinds                kinds that it knows
    fillers, steered       names of the models that fill in, and of those that draw what they are told to
    """
    if right is None:
        judge = f"{UNKNOWN.capitalize()} so there is no judge of samples."
    else:
        judge = HEARD if right >= LEAST_RIGHT else UNHEARD
        judge = judge.format(right=right, n_kinds=n_kinds, least=LEAST_RIGHT)
    texts = [NOTE.format(side=side, n_train=n_train, n_test=n_test, n=n, judge=judge.strip()).strip()]
    texts += [text.format(names=" and ".join(names)) for text, names in ((STEERED, steered), (FILLS, fillers))
              if names]
    return "".join(texts)


def findings(rows):
    """What the rows of the table show, ranked only where they can be: a text.

    rows  the real images' first, dicts with model, view, bits, level_bits, bound, spread, copying
    """
    texts = []
    exact = sorted((row for row in rows if row["bits"] is not None and row["bound"] == "exact"),
                   key=lambda row: row["bits"])
    if exact:
        texts.append("Held-out images cost, in bits/dim of an exact density, "
                     f"{_listed(exact, 'bits', '.2f')}.")
    levels = sorted((row for row in rows if row["level_bits"] is not None), key=lambda row: row["view"])
    for view, same in groupby(levels, key=lambda row: row["view"]):
        same = sorted(same, key=lambda row: row["level_bits"])
        texts.append(f"In levels ({view}): {_listed(same, 'level_bits', '.2f')}.")
    drawn = [row for row in rows[1:] if row["spread"] is not None]
    if drawn:
        alike = sorted(drawn, key=lambda row: row["spread"])[:3]
        near = [row for row in drawn if row["copying"] is not None]
        near = sorted(near, key=lambda row: row["copying"])[:3]
        texts.append(f"The least diverse samples, as pair distance over that of real images: "
                     f"{_listed(alike, 'spread', '.2f')}. The nearest to training images: "
                     f"{_listed(near, 'copying', '.2f')}; fresh real ones 1.")
    return " ".join(texts)


def _listed(rows, key, form):
    return ", ".join(f"{row['model']} {format(row[key], form)}" for row in rows)
