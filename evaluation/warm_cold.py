"""Warm start against cold start with equal numbers of network passes, over several seeds.

An epoch of the warm start costs one pass per image more, for the chains' present states. The cold
start trains to its last epoch, the warm start until another epoch would exceed the cold start's
passes.
"""
import dataclasses

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from tqdm import tqdm

from abp import ABP
from inference.measures import measure, sample_images
from runs.manuscript import METRICS
from runs.tables import write_tables
from utils import COLUMN, LINES, STYLE, save_figure

STARTS = ("warm", "cold")
MEASURED = ("psnr", "sample_nearest_psnr", "sample_nearest_psnr_p10", "sample_saturated",
            "z_mean_square")
HEADS = {key: METRICS[key][0] for key in (*MEASURED, "seconds", "epochs")} | {
    "passes": "passes per image"}
FORMS = {key: METRICS[key][1] for key in MEASURED} | {"seconds": ".1f", "passes": ".0f"}


def run(config, images, names, folder, device, precision, n_seeds):
    """Train both starts with every seed and the same passes.

    config  abp.Config of the trainings; its start is replaced, its seed is the first
    images  (n, 3, S, S) in [-1, 1], with their names
    folder  gets warm_cold_seeds.*, a row for each start and seed, then mean and std over the
            seeds; warm_cold.png, .pdf, PSNR over passes
    """
    found, curves = {start: [] for start in STARTS}, {start: [] for start in STARTS}
    for k in tqdm(range(n_seeds), desc="warm against cold", unit="seed", disable=None):
        budget = None
        for start in reversed(STARTS):  # cold first: its passes are the budget
            seeded = dataclasses.replace(config, start=start, seed=config.seed + k)
            model = ABP(seeded, images, start, device, precision, names)
            passes = train(model, budget)
            budget = budget or passes[-1]
            samples = sample_images(model.net, seeded)
            values = measure(model.net, model.z, images, samples, seeded, model.mask)
            found[start].append({"start": start, "seed": seeded.seed}
                                | {key: values[key] for key in MEASURED}
                                | {"seconds": sum(row["seconds"] for row in model.history),
                                   "epochs": len(model.history), "passes": passes[-1]})
            curves[start].append((passes, [row["psnr"] for row in model.history]))
    table = [row for start in STARTS for row in (*found[start], *spread(found[start]))]
    write_tables(folder, "warm_cold_seeds", table, HEADS, FORMS)
    draw(curves, [folder / "warm_cold.png", folder / "warm_cold.pdf"])


def train(model, budget=None):
    """Train to the last epoch within the budget [passes per image] -> passes up to each epoch.

    Each epoch is taken to cost as much as the one before; there is at least one.
    """
    passes = [0]
    for row in model:
        passes.append(passes[-1] + row["passes"])
        if budget is not None and passes[-1] + row["passes"] > budget:
            break
    return passes[1:]


def spread(rows):
    """Rows of mean and std (n - 1) of the rows of one start; the std of one seed is None."""
    keys = [key for key in rows[0] if key not in ("start", "seed")]
    values = np.array([[row[key] for key in keys] for row in rows], float)
    std = values.std(0, ddof=1).tolist() if len(rows) > 1 else [None] * len(keys)
    return [{"start": rows[0]["start"], "seed": name} | dict(zip(keys, numbers, strict=True))
            for name, numbers in (("mean", values.mean(0).tolist()), ("std", std))]


def draw(curves, paths):
    """PSNR over network passes: the mean over the seeds, in a band from least to greatest.

    curves  {start: [(passes per image, psnr) of each seed]}, lists over epochs; all seeds of a
            start have the same passes
    """
    with rc_context(STYLE):
        fig = Figure(figsize=(COLUMN, 0.75 * COLUMN), layout="constrained")
        ax = fig.add_subplot()
        for start, seeds in curves.items():
            passes, psnr = seeds[0][0], np.array([values for _, values in seeds])
            marker = "." if len(passes) < 3 else None
            ax.plot(passes, psnr.mean(0), label=f"{start} start", marker=marker, **LINES[start])
            ax.fill_between(passes, psnr.min(0), psnr.max(0), color=LINES[start]["color"],
                            alpha=0.2, linewidth=0)
        ax.set(xlabel="network passes per image", ylabel="PSNR [dB]")
        ax.legend(loc="lower right")
        save_figure(fig, paths)
