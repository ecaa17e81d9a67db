"""Figures of a run: grids of images as PNG, curves as PDF and PNG. Each function draws to a path."""
import io
import logging
import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw

from style import COLUMN, LINES, STYLE, picture_font, picture_text
from utils import to_pixels, write_atomic

GAP = 2                          # pixels between the pictures of a grid
MARGIN = 0.5                     # inches that the labels of the panel's axis take
MOST_PIXELS = 6000               # width of the largest panel, in pixels
COMPRESSION = 3                  # of PNG files: half the time of the default 6, and 7 % more bytes


def save_figure(fig, paths, dpi=300):
    """Draw a matplotlib Figure to paths, .png or .pdf: the same bytes each time, tight margins."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)        # it warns of the age of Computer Modern
    for path in paths:
        buffer = io.BytesIO()
        extra = ({"metadata": {"CreationDate": None}} if path.suffix == ".pdf"
                 else {"pil_kwargs": {"compress_level": COMPRESSION}})
        fig.savefig(buffer, format=path.suffix[1:], dpi=dpi, bbox_inches="tight", pad_inches=0.02, **extra)
        write_atomic(path, buffer.getvalue())


def _save_picture(picture, path):
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=COMPRESSION)
    write_atomic(path, buffer.getvalue())


def _tile(images, ncol):
    """Images (n, 3, h, w) in [-1, 1] as one uint8 picture of rows of ncol, with white gaps."""
    pixels = to_pixels(images)
    n, h, w, _ = pixels.shape
    nrow = math.ceil(n / ncol)
    sheet = np.full((nrow * (h + GAP) - GAP, ncol * (w + GAP) - GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = i // ncol * (h + GAP), i % ncol * (w + GAP)
        sheet[y:y + h, x:x + w] = picture
    return sheet


def save_images(images, path, ncol=12):
    """A grid of images (n, 3, h, w) in [-1, 1], row by row, as PNG. The range is fixed: -1 black, 1 white."""
    _save_picture(Image.fromarray(_tile(images, min(ncol, len(images)))), path)


def save_recon(rows, path, ncol=12):
    """Images and their reconstructions under each other, in blocks of ncol columns, as PNG.

    rows  {label: images (n, 3, h, w) in [-1, 1]}, from the top; the label reads upwards at the left
    """
    n, (height, width) = len(next(iter(rows.values()))), next(iter(rows.values())).shape[-2:]
    ncol = min(ncol, n)
    between, text = max(4, height // 12), max(8, height // 8, picture_text(ncol * (width + GAP)))
    margin = max(16, height // 4, math.ceil(1.25 * text))
    longest = max(picture_font(text).getlength(label) for label in rows)
    font = picture_font(max(6, int(text * min(1, height / longest))))       # no label longer than its row
    block = len(rows) * (height + GAP) - GAP + between
    sheet = Image.new("RGB", (margin + ncol * (width + GAP) - GAP, math.ceil(n / ncol) * block - between),
                      "white")
    for k in range(0, n, ncol):
        for j, (label, images) in enumerate(rows.items()):
            y = k // ncol * block + j * (height + GAP)
            sheet.paste(Image.fromarray(_tile(images[k:k + ncol], ncol)), (margin, y))
            sheet.paste(_upright(label, font, (margin, height)), (0, y))
    _save_picture(sheet, path)


def _upright(text, font, size):
    """Text that reads upwards, centred on white of the given size (w, h)."""
    label = Image.new("RGB", size[::-1], "white")
    centre = (label.width / 2, label.height / 2)
    ImageDraw.Draw(label).text(centre, text, fill="black", font=font, anchor="mm")
    return label.rotate(90, expand=True)


def save_interp(images, columns, rows, paths):
    """Draw the panel of `plot_interp` to paths, .png or .pdf."""
    with matplotlib.rc_context({**STYLE, "xtick.major.size": 0, "ytick.major.size": 0}):
        fig = plot_interp(images, columns, rows)
        pixels = len(columns) * (images.shape[-1] + GAP)
        save_figure(fig, paths, dpi=min(MOST_PIXELS, pixels) / fig.get_figwidth())


def plot_interp(images, columns, rows):
    """The panel g(z) over the latent plane: columns left to right along z_1, rows top to bottom along z_2.

    images   (len(rows) * len(columns), 3, h, w) in [-1, 1], row by row from the top left
    columns  values of z_1 from the left; they label the axis
    rows     values of z_2 from the top, likewise; none: a single strip along z_1
    Returns a matplotlib Figure.
    """
    ncol, nrow = len(columns), max(1, len(rows))
    side = 2 * COLUMN - MARGIN                         # of the cells; save_figure adds the labels beside them
    fig = Figure(figsize=(side, side * nrow / ncol))
    ax = fig.add_axes((0, 0, 1, 1))
    sheet = _tile(images, ncol)
    ax.imshow(sheet, interpolation="none", aspect="equal")
    decimals = max(0, 2 - math.floor(math.log10(max(map(abs, columns)))))
    every = math.ceil(ncol / 16)                       # more labels than this would touch
    for set_ticks, values, pitch in ((ax.set_xticks, columns, sheet.shape[1] / ncol),
                                     (ax.set_yticks, rows, sheet.shape[0] / nrow)):
        labels = [f"{round(v, decimals) + 0.0:.{decimals}f}" for v in values]          # + 0.0: no minus zero
        set_ticks(((np.arange(len(values)) + 0.5) * pitch)[::every], labels[::every])
    ax.set_xlabel("$z_1$")
    if len(rows):
        ax.set_ylabel("$z_2$")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return fig


def plot_stats(histories, paths):
    """Loss (Eq. 7, logarithmic) and PSNR of every epoch, one line for each start.

    histories  {"warm": rows, "cold": rows}: rows are dicts with epoch, loss, psnr
    paths      files to draw to, .png or .pdf
    """
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(COLUMN, 1.25 * COLUMN), layout="constrained")
        axes = fig.subplots(2, 1, sharex=True)
        for start, rows in histories.items():
            epochs = [r["epoch"] for r in rows]
            marker = "." if len(rows) < 3 else None
            for ax, key in zip(axes, ("loss", "psnr"), strict=True):
                ax.plot(epochs, [r[key] for r in rows], label=f"{start} start", marker=marker, **LINES[start])
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylabel(r"loss  $\langle |I - g(z)|^2 / 2\sigma^2 \rangle$")
        axes[1].set_ylabel("PSNR [dB]")
        axes[1].set_xlabel("epoch")
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(histories) > 1:
            axes[1].legend(loc="lower right")
        save_figure(fig, paths)


def plot_latents(z, images, prior_sigma, path, most=60):
    """Where the training images sit in the latent plane: thumbnails at their z, on the circles of the prior.

    z (n, nz), images (n, 3, h, w) in [-1, 1]; the first two coordinates are drawn, at most `most` thumbnails,
    and dots for the rest. The circles hold 39 %, 86 % and 99 % of a 2-D prior N(0, prior_sigma^2 I).
    """
    plane = np.zeros((len(z), 2))
    plane[:, :z.shape[1]] = z[:, :2].cpu().numpy()
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(COLUMN, COLUMN), layout="constrained")
        ax = fig.add_subplot()
        angle = np.linspace(0, 2 * math.pi, 200)
        for k in (1, 2, 3):
            r = k * prior_sigma
            ax.plot(r * np.cos(angle), r * np.sin(angle), color="0.7", linewidth=0.6, zorder=0)
        ax.plot(*plane.T, linestyle="none", marker=".", markersize=3, color="0.3")
        step = max(1, math.ceil(len(z) / most))
        zoom = 17 / images.shape[-1]              # thumbnails of about 17 points, whatever the image size
        for point, picture in zip(plane[::step], to_pixels(images[::step]), strict=True):
            ax.add_artist(AnnotationBbox(OffsetImage(picture, zoom=zoom, interpolation="lanczos"), point,
                                         frameon=False))
        reach = max(3.1 * prior_sigma, 1.15 * np.abs(plane).max())
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$z_1$",
               ylabel="$z_2$" if z.shape[1] > 1 else "")
        save_figure(fig, [path])


def save_side_by_side(cells, path):
    """PNG pictures from files, side by side in rows, each under its title.

    cells  rows of (title, path of a PNG)
    """
    rows = [[(title, Image.open(p).convert("RGB")) for title, p in row] for row in cells]
    width = max(im.width for row in rows for _, im in row)
    pad, bar = max(8, width // 40), max(14, width // 22)
    font = picture_font(round(bar * 0.75))
    size = (max(len(row) for row in rows) * (width + pad) - pad,
            sum(bar + max(im.height for _, im in row) + pad for row in rows) - pad)
    sheet = Image.new("RGB", size, "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for row in rows:
        for k, (title, im) in enumerate(row):
            x = k * (width + pad)
            draw.text((x + width / 2, y + bar / 2), title, fill="black", font=font, anchor="mm")
            sheet.paste(im, (x, y + bar))
        y += bar + max(im.height for _, im in row) + pad
    _save_picture(sheet, path)
