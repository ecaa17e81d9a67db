"""Figures of an evaluation, each drawn to folder/NAME.png and .pdf."""
import math

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from scipy import stats

from utils import COLUMN, LINES, SMALL, STYLE, save_figure, to_pixels

N_NEAREST = 24                 # random samples that are shown, each with the nearest image
DEPTH = 3000.0                 # range of the colours of the plane, nats, logarithmic
ZOOM_DEPTH = 12.0              # of a zoom on a mode, linear
BELOW = r"$-\Delta \log p(z|I)$ [nats]"                   # from its greatest value
LATENT = {"marker": "x", "color": "#d55e00", "markersize": 4, "linestyle": "none",
          "label": "the run's $z$"}
# file names as in the report's \texttt: cmr10 has other glyphs for _ and |
FILE_NAME = {"family": ["cmtt10", "DejaVu Sans Mono"], "fontsize": SMALL, "parse_math": False}
MODE = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": "white", "markersize": 6,
        "markeredgewidth": 0.8, "linestyle": "none"}
LEGEND = {"fontsize": SMALL, "facecolor": "0.6", "frameon": True, "framealpha": 1,
          "handlelength": 1.6, "columnspacing": 1}      # grey, for white markers and lines
CHAIN_COLOURS = ("#d55e00", "#000000", "#cc79a7", "#ffffff")       # of four chains, on viridis
NAMES = {"langevin": "Langevin (Eq. 6)", "mala": "MALA", "smmala": "smMALA", "rw_mh": "random walk"}


def _save(fig, folder, name):
    save_figure(fig, [folder / f"{name}.png", folder / f"{name}.pdf"], dpi=200)


def file_name(name):
    """A file name for a figure: at most 18 characters, ? for what is not Latin-1."""
    name = name.encode("latin-1", "replace").decode("latin-1")
    return name if len(name) <= 18 else f"{name[:8]}...{name[-7:]}"


def _panel_axes(ax):
    ax.tick_params(length=2, pad=1)
    ax.locator_params(nbins=3)
    ax.set_box_aspect(1)
    for spine in ax.spines.values():
        spine.set_visible(True)


def _map(ax, values, extent, norm):
    """values (cells, cells), rows from the lowest z_2, coloured by nats below the greatest."""
    return ax.imshow(np.asarray(values.max() - values), origin="lower", extent=extent, norm=norm,
                     cmap="viridis_r", interpolation="bilinear", aspect="auto")


def plot_maps(rows, folder):
    """Log posteriors over the latent plane: for each image the plane, then a zoom on each mode.

    rows  dicts with image (3, S, S), title, plane (cells, cells), reach, z (2,) of the run, and
          modes, a list of dicts with z (2,), share, zoom (cells, cells), extent
    """
    columns = 2 + max(len(row["modes"]) for row in rows)
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(1.45 * columns + 0.8, 1.45 * len(rows) + 0.4), layout="constrained")
        axes = fig.subplots(len(rows), columns, squeeze=False,
                            width_ratios=[0.75] + [1.0] * (columns - 1))
        for line, row in zip(axes, rows, strict=True):
            line[0].imshow(to_pixels(row["image"]), interpolation="lanczos")
            line[0].set_title(file_name(row["title"]), pad=2, **FILE_NAME)
            line[0].axis("off")
            reach = row["reach"]
            shown = _map(line[1], row["plane"], (-reach, reach) * 2, LogNorm(1, DEPTH, clip=True))
            for k, mode in enumerate(row["modes"]):
                line[1].plot(*mode["z"], **MODE, label="" if k else "mode")
                line[1].annotate(str(k + 1), mode["z"], color="white", fontsize=SMALL,
                                 xytext=(4, 3), textcoords="offset points")
            line[1].plot(*row["z"], **LATENT)
            for ax, (k, mode) in zip(line[2:], enumerate(row["modes"]), strict=False):
                near = _map(ax, mode["zoom"], mode["extent"], Normalize(0, ZOOM_DEPTH))
                left, right, low, high = mode["extent"]
                if left <= row["z"][0] <= right and low <= row["z"][1] <= high:
                    ax.plot(*row["z"], **LATENT)
                title = f"mode {k + 1}, mass {100 * mode['share']:.3g} %"
                ax.set_title(title, fontsize=SMALL, pad=2)
            for ax in line[2 + len(row["modes"]):]:
                ax.axis("off")
            for ax in line[1:2 + len(row["modes"])]:
                _panel_axes(ax)
                ax.set_ylabel("$z_2$", labelpad=3)
        for ax in axes[-1, 1:]:
            ax.set_xlabel("$z_1$", labelpad=0)
        axes[0, 1].set_title("the plane", fontsize=SMALL, pad=2)
        for mappable, what, side in ((shown, "the plane", "left"), (near, "modes", "right")):
            fig.colorbar(mappable, ax=axes, location=side, shrink=0.5, aspect=25, pad=0.01,
                         label=f"{BELOW}, {what}")
        fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                   **LEGEND)
        _save(fig, folder, "posterior_maps")


def plot_chains(rows, folder):
    """Traces of each sampler's chains over the posterior near the heaviest mode of each image.

    rows  dicts as of plot_maps, with paths {sampler: (steps, chains, 2)}
    """
    samplers = list(rows[0]["paths"])
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(2 * COLUMN, 1.45 * len(rows) + 0.4), layout="constrained")
        axes = fig.subplots(len(rows), len(samplers), squeeze=False, sharex="row", sharey="row")
        for line, row in zip(axes, rows, strict=True):
            mode = row["modes"][0]
            for ax, sampler in zip(line, samplers, strict=True):
                shown = _map(ax, mode["zoom"], mode["extent"], Normalize(0, ZOOM_DEPTH))
                for chain, colour in enumerate(CHAIN_COLOURS):
                    path = row["paths"][sampler][:, chain]
                    ax.plot(*path.T, color=colour, linewidth=0.35, alpha=0.9)
                ax.set(xlim=mode["extent"][:2], ylim=mode["extent"][2:])
                _panel_axes(ax)
            line[0].set_ylabel("$z_2$", labelpad=3)
            line[0].text(-0.5, 0.5, file_name(row["title"]), transform=line[0].transAxes,
                         rotation=90, ha="right", va="center", **FILE_NAME)
        for ax, sampler in zip(axes[0], samplers, strict=True):
            ax.set_title(NAMES[sampler], pad=3)
        for ax in axes[-1]:
            ax.set_xlabel("$z_1$")
        fig.colorbar(shown, ax=axes, aspect=40, pad=0.01, label=BELOW)
        fig.supxlabel("lines: chains, one colour each", fontsize=SMALL)
        _save(fig, folder, "chains")


def plot_plane(z, area, reach, d, prior_sigma, folder):
    """Left the stretch of the plane under the images' z, right |z|^2 against chi^2.

    area  (cells, cells) log10 sqrt(det J'J), rows from the lowest z_2, over (-reach, reach)^2
    d     half the side of the panel
    """
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(2 * COLUMN, COLUMN), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
        shown = left.imshow(np.asarray(area), origin="lower", extent=(-reach, reach, -reach, reach),
                            cmap="cividis", interpolation="bilinear")
        left.plot(*z.T, linestyle="none", marker="o", markersize=3, markerfacecolor="white",
                  markeredgecolor="black", markeredgewidth=0.5, label="images")
        angle = np.linspace(0, 2 * math.pi, 200)
        edge = math.sqrt(stats.chi2.ppf(0.95, 2)) * prior_sigma
        left.plot(edge * np.cos(angle), edge * np.sin(angle), color="white", linewidth=0.8,
                  label="95 % of the prior")
        left.plot([-d, d, d, -d, -d], [-d, -d, d, d, -d], color="white", linewidth=0.8,
                  linestyle=(0, (4, 2)), label="the panel")
        left.set(xlabel="$z_1$", ylabel="$z_2$", xlim=(-reach, reach), ylim=(-reach, reach))
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, **LEGEND)
        fig.colorbar(shown, ax=left, shrink=0.9,
                     label=r"stretch $\log_{10} \sqrt{\det J^\top J}$")
        square = np.sort((np.asarray(z) / prior_sigma) ** 2 @ np.ones(2))
        expected = stats.chi2.ppf((np.arange(len(square)) + 0.5) / len(square), 2)
        top = 1.05 * max(square[-1], expected[-1])
        right.plot([0, top], [0, top], color="0.6", linewidth=0.8)
        right.plot(expected, square, linestyle="none", marker="o", markersize=3,
                   color=LINES["cold"]["color"])
        right.set(xlabel=r"quantiles of $\chi^2_2$", ylabel=r"$|z|^2 / \sigma_z^2$ of the images",
                  xlim=(0, top), ylim=(0, top), aspect="equal")
        _save(fig, folder, "latent_plane")
