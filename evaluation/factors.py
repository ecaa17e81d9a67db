"""Do the latents find the factors of the images? Only for images whose factors are known.

A data folder may hold factors.csv with the columns `name`, an image's file name without its suffix,
`lion` in [0, 1], 0 tiger and 1 lion, and `turn` in [-1, 1], the yaw, as written by data/draw.py.
"""
import csv
from pathlib import Path

import numpy as np
from scipy.spatial import procrustes
from sklearn.isotonic import IsotonicRegression

from runs.options import UserError
from runs.tables import read_csv

FACTORS = ("lion", "turn")
REMEDY = "mend it, or take it out of the folder to go without"
HEADS = {"factor": "factor", "linear_r2": "linear R²", "loo_r2": "leave-one-out R²",
         "isotonic_r2": "isotonic R²", "procrustes": "Procrustes disparity"}
FORMS = dict.fromkeys(("linear_r2", "loo_r2", "isotonic_r2", "procrustes"), ".3f")


def read(folder, names):
    """The factors of images by file name: {"lion": (n,), "turn": (n,)}; None without a factors.csv.

    folder  the data folder; names  of its images, such as "face_01.png"
    Raises UserError if factors.csv does not give finite numbers for every image.
    """
    path = Path(folder) / "factors.csv"
    if not path.is_file():
        return None
    try:
        by_name = {line["name"]: line for line in read_csv(path)}
        lines = [by_name[Path(name).stem] for name in names]
        values = {factor: np.array([float(line[factor] or "nan") for line in lines])
                  for factor in FACTORS}
    except KeyError as error:
        raise UserError(f"{path}: has no row or column {error}; {REMEDY}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: is no table of numbers ({error}); {REMEDY}") from None
    for factor, column in values.items():
        if not np.isfinite(column).all():
            raise UserError(f"{path}: {factor} must be a finite number in every row; {REMEDY}")
    return values


def rows(z, factors):
    """Rows of a table: how well each factor can be read off the latents z (n, nz).

    linear_r2    R^2 of the factor on z by least squares
    loo_r2       the same with each image predicted from the others, 1 - PRESS / squares about the
                 mean; may be negative; None where an image alone fixes its own prediction
    isotonic_r2  R^2 of the best rising function of that linear combination, which flatters few
                 images
    procrustes   of a last row for both factors: the fraction of the squared distances between z and
                 (lion, turn), at unit variance, left after the best shift, rotation, reflection
                 and scale
    A factor, or latents, that are the same for all images give None.
    """
    z = np.asarray(z, float)
    table = [_row(factor, z, values) for factor, values in factors.items()]
    return [*table, {**dict.fromkeys(table[0]), "factor": " and ".join(factors),
                     "procrustes": _disparity(z, np.column_stack(list(factors.values())))}]


def _row(factor, z, values):
    row = dict.fromkeys(HEADS) | {"factor": factor}
    total = np.square(values - values.mean()).sum()
    if total == 0:
        return row
    design = np.column_stack([np.ones(len(z)), z])                       # least squares on z
    solution = np.linalg.pinv(design)
    coefficients = solution @ values
    fitted, leverage = design @ coefficients, np.einsum("ik,ki->i", design, solution)
    row["linear_r2"] = float(1 - np.square(values - fitted).sum() / total)
    if leverage.max() < 1 - 1e-9:
        row["loo_r2"] = float(1 - np.square((values - fitted) / (1 - leverage)).sum() / total)
    rising = IsotonicRegression().fit_transform(z @ coefficients[1:], values)
    return row | {"isotonic_r2": float(1 - np.square(values - rising).sum() / total)}


def _disparity(z, factors):
    spread = factors.std(0)
    if not spread.all() or not z.std(0).any():
        return None
    width = max(z.shape[1], factors.shape[1])              # columns of zeros, where one has fewer
    a, b = (np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in (factors / spread, z))
    return float(procrustes(a, b)[2])
