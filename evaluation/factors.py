"""How well known factors of the images can be read off their latents.

A data folder may hold factors.csv with the columns `name`, an image's file name without its suffix,
`lion` in [0, 1], 0 tiger and 1 lion, and `turn` in [-1, 1], the yaw, as written by data/draw.py.
"""
import csv
from pathlib import Path

import numpy as np

from runs.options import UserError
from runs.tables import read_csv

FACTORS = ("lion", "turn")
REMEDY = "correct it, or move it out of the folder to do without"
HEADS = {"factor": "factor", "linear_r2": "linear R²", "loo_r2": "leave-one-out R²"}
FORMS = {"linear_r2": ".3f", "loo_r2": ".3f"}


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

    linear_r2  R^2 of the factor on z by least squares
    loo_r2     the same with each image predicted from the others, 1 - PRESS / squares about the
               mean; may be negative; None if an image alone determines its own prediction
    Both are None for a factor that is the same for all images.
    """
    z, table = np.asarray(z, float), []
    design = np.column_stack([np.ones(len(z)), z])
    solution = np.linalg.pinv(design)
    leverage = np.einsum("ik,ki->i", design, solution)
    for factor, values in factors.items():
        row = dict.fromkeys(HEADS) | {"factor": factor}
        residual, total = values - design @ solution @ values, np.square(values - values.mean())
        if total.any():
            row["linear_r2"] = float(1 - np.square(residual).sum() / total.sum())
            if leverage.max() < 1 - 1e-9:
                press = np.square(residual / (1 - leverage)).sum()
                row["loo_r2"] = float(1 - press / total.sum())
        table.append(row)
    return table
