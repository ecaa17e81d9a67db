"""Do the latents find the factors of the images? Only for images whose factors are known.

A data folder may hold factors.csv with the columns `name`, an image's file name without its suffix,
`lion` in [0, 1], 0 tiger and 1 lion, and `turn` in [-1, 1], the head's yaw. data/draw.py does.
"""
import csv
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.spatial import procrustes
from sklearn.isotonic import IsotonicRegression

from runs.options import UserError
from runs.tables import read_csv
from utils import COLUMN, LINES, SMALL, STYLE, save_figure

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


def direction(z, values):
    """Least squares of values (n,) on a + z b, z (n, nz): b (nz,), fits (n,), leverages (n,)."""
    design = np.column_stack([np.ones(len(z)), z])
    solution = np.linalg.pinv(design)
    coefficients = solution @ values
    return coefficients[1:], design @ coefficients, np.einsum("ik,ki->i", design, solution)


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
    slope, fitted, leverage = direction(z, values)
    row["linear_r2"] = float(1 - np.square(values - fitted).sum() / total)
    if leverage.max() < 1 - 1e-9:
        row["loo_r2"] = float(1 - np.square((values - fitted) / (1 - leverage)).sum() / total)
    rising = IsotonicRegression().fit_transform(z @ slope, values)  # rising, as its direction is
    return row | {"isotonic_r2": float(1 - np.square(values - rising).sum() / total)}


def _disparity(z, factors):
    spread = factors.std(0)
    if not spread.all() or not z.std(0).any():
        return None
    width = max(z.shape[1], factors.shape[1])              # columns of zeros, where one has fewer
    a, b = (np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in (factors / spread, z))
    return float(procrustes(a, b)[2])


def draw(z, factors, prior_sigma, paths):
    """Draw the images in the latent plane, coloured by lion, with an arrow for turn.

    z (n, nz), of which the first two coordinates are drawn. Two long arrows show the directions in
    which the factors grow, by least squares in the plane.
    """
    z = np.asarray(z, float)
    plane = np.zeros((len(z), 2))
    plane[:, :z.shape[1]] = z[:, :2]
    with rc_context(STYLE):
        fig = Figure(figsize=(COLUMN, 0.85 * COLUMN), layout="constrained")
        ax = fig.add_subplot()
        reach = max(2.1 * prior_sigma, 1.1 * np.abs(plane).max())
        points = ax.scatter(*plane.T, c=factors["lion"], cmap="cividis", vmin=0, vmax=1, s=16,
                            zorder=2, edgecolors="0.3", linewidths=0.4)
        ax.quiver(*plane.T, factors["turn"], np.zeros(len(plane)), angles="xy", scale_units="xy",
                  scale=8 / reach, width=0.005, color="0.2", zorder=3)
        for factor, style in zip(factors, ("-", (0, (4, 1.5))), strict=True):
            slope = direction(plane, factors[factor])[0]
            if norm := np.linalg.norm(slope):
                end = plane.mean(0) + 0.75 * reach * slope / norm
                arrow = {"arrowstyle": "->", "linestyle": style, "color": LINES["warm"]["color"]}
                ax.annotate("", end, plane.mean(0), arrowprops=arrow, zorder=1)
                box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5}
                ax.annotate(factor, end + 0.07 * reach * slope / norm, color=arrow["color"],
                            ha="center", va="center", zorder=4, bbox=box)
        fig.colorbar(points, ax=ax, label="lion  (0 tiger, 1 lion)", shrink=0.8)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$z_1$",
               ylabel="$z_2$" if z.shape[1] > 1 else "")
        ax.set_title("small arrows: the way the head turns (turn)", fontsize=SMALL)
        save_figure(fig, paths)
