"""Images in; reconstructions, random samples, the panel, loss curves and latents out.

Pixels are in [-1, 1], -1 black and 1 white, for reading and for writing.
"""
import io
import logging
import math
import struct
import warnings
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid

from inference.masks import fingerprint, make_mask
from runs.files import data_folder, half_way, list_images, write_atomic
from runs.options import UserError

COLUMN = 3.3  # inches, width of a report's column; figures are 1 or 2 columns wide
TEXT, SMALL = 8, 7               # points: labels; numbers along axes
STYLE = {                        # Computer Modern, as in a LaTeX report
    "font.family": "serif", "font.serif": ["cmr10"], "mathtext.fontset": "cm", "font.size": TEXT,
    "axes.formatter.use_mathtext": True,                  # cmr10 itself has no minus
    "axes.titlesize": TEXT, "axes.labelsize": TEXT, "legend.fontsize": TEXT,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "axes.linewidth": 0.6,
    "lines.linewidth": 1.0, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "pdf.fonttype": 42}
# colours of Okabe and Ito, safe for the colour-blind, and line styles for print in grey
LINES = {"warm": {"color": "#d55e00", "linestyle": "-"},
         "cold": {"color": "#0072b2", "linestyle": (0, (4, 1.5))}}
GAP = 2                          # pixels between the images of a grid
MARGIN = 0.5                     # inches for the labels of the panel
MOST_PIXELS = 6000               # largest width of the panel in pixels
COMPRESSION = 3                  # of PNG: quick, and little larger than 9

# -------------------------------------------------------------------------------------- images in

def load_img_tensors(folder, img_size):
    """All images of a folder, sorted by name -> (n, 3, img_size, img_size) in [-1, 1], names.
    Raises UserError if the folder is missing, holds no image, or an image cannot be read."""
    paths = list_images(folder)
    images = torch.empty(len(paths), 3, img_size, img_size)
    for i, path in enumerate(paths):
        images[i] = load_image(path, img_size)
    return images, [p.name for p in paths]


def load_inputs(config):
    """The images of a run (n, 3, S, S), their names, and the fingerprint of its mask."""
    images, names = load_img_tensors(data_folder(config), config.img_size)
    mask = make_mask(config.mask, len(images), config.img_size, config.seed)
    return images, names, fingerprint(mask)


def load_image(path, img_size):
    """An image file as a float32 tensor (3, img_size, img_size) in [-1, 1].

    EXIF orientation applied, first frame of an animation, transparency on white, any mode as 8-bit
    RGB, cropped square at the centre, resized with antialiasing. Raises UserError if it is no
    image, is truncated, or exceeds Pillow's limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)         # odd metadata
            with Image.open(path) as file:
                image = _to_rgb(_upright(file))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels; "
                        "make it smaller or take it out of the folder") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # of broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = reason.replace(repr(str(path)), "it")
        raise UserError(f"{path}: cannot be read as an image ({reason}); "
                        "repair it or take it out of the folder") from None
    return to_tensor(ImageOps.fit(image, (img_size, img_size), Image.Resampling.LANCZOS))


def _upright(image):
    try:
        return ImageOps.exif_transpose(image)
    except struct.error:               # EXIF data too broken to be read
        return image


def _to_rgb(image):
    # 16-bit grey: convert() clips it to white
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_tensor(image):
    """A PIL RGB image (w, h) as a float32 tensor (3, h, w) in [-1, 1]."""
    return pil_to_tensor(image).float() / 127.5 - 1


def check_images(images):
    """Images (n, 3, S, S) in [-1, 1] as a float32 tensor on the CPU; UserError for all others."""
    try:
        images = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"images are {type(images).__name__}; give a tensor or an array") from None
    if not images.is_floating_point():
        raise UserError(f"images are {images.dtype}; give floating-point values in [-1, 1]")
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not shape[0]:
        raise UserError(f"images have the shape {shape}; give (n, 3, S, S)")
    if not images.abs().max() <= 1:
        raise UserError(f"images range from {images.min():g} to {images.max():g}; "
                        "give values in [-1, 1]")
    return images.detach().float().cpu()


def to_pixels(images):
    """Images (..., 3, h, w) in [-1, 1] as a uint8 array (..., h, w, 3)."""
    pixels = ((images.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return pixels.byte().movedim(-3, -1).numpy()


# ------------------------------------------------------------------------------------- pictures out

@cache
def picture_font(pixels):
    """Computer Modern of the given size in pixels, for text in PNG pictures."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"
    return ImageFont.truetype(str(path), pixels)


def save_figure(fig, paths, dpi=300):
    """Draw a matplotlib Figure to paths, .png or .pdf, with tight margins and no date."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns about Computer Modern's date
    for path in paths:
        buffer = io.BytesIO()
        extra = ({"metadata": {"CreationDate": None}} if path.suffix == ".pdf"
                 else {"pil_kwargs": {"compress_level": COMPRESSION}})
        fig.savefig(buffer, format=path.suffix[1:], dpi=dpi, bbox_inches="tight", pad_inches=0.02,
                    **extra)
        write_atomic(path, buffer.getvalue())


def _save_picture(picture, path):
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=COMPRESSION)
    write_atomic(path, buffer.getvalue())


def _tile(images, ncol):
    """Images (n, 3, h, w) in [-1, 1] as a uint8 grid (H, W, 3), ncol to a row, white gaps."""
    pixels = torch.from_numpy(to_pixels(images)).movedim(-1, 1)
    sheet = make_grid(pixels, ncol, padding=GAP, pad_value=255).movedim(0, -1).numpy()
    return sheet[GAP:-GAP, GAP:-GAP] if len(images) > 1 else sheet       # without the outer gap


def save_images(images, path, ncol=12):
    """A grid of images (n, 3, h, w) in [-1, 1], row by row, as PNG."""
    _save_picture(Image.fromarray(_tile(images, min(ncol, len(images)))), path)


def save_recon(rows, path, ncol=12):
    """Rows of images and of their reconstructions, in blocks of ncol columns, as PNG.

    rows  {label: images (n, 3, h, w) in [-1, 1]}, from the top; labels stand at the left
    """
    n, _, height, width = next(iter(rows.values())).shape
    ncol = min(ncol, n)
    printed = round(ncol * (width + GAP) * TEXT / (72 * 2 * COLUMN))     # TEXT at two columns
    between, text = max(4, height // 12), max(8, height // 8, printed)
    margin = max(16, height // 4, math.ceil(1.25 * text))
    longest = max(picture_font(text).getlength(label) for label in rows)
    # no label longer than its row
    font = picture_font(max(6, int(text * min(1, height / longest))))
    block = len(rows) * (height + GAP) - GAP + between
    size = margin + ncol * (width + GAP) - GAP, math.ceil(n / ncol) * block - between
    sheet = Image.new("RGB", size, "white")
    for k in range(0, n, ncol):
        for j, (label, images) in enumerate(rows.items()):
            y = k // ncol * block + j * (height + GAP)
            sheet.paste(Image.fromarray(_tile(images[k:k + ncol], ncol)), (margin, y))
            sheet.paste(_sideways(label, font, (margin, height)), (0, y))
    _save_picture(sheet, path)


def _sideways(text, font, size):
    """Text that reads upwards, centred on white of the given size (w, h)."""
    label = Image.new("RGB", size[::-1], "white")
    centre = (label.width / 2, label.height / 2)
    ImageDraw.Draw(label).text(centre, text, fill="black", font=font, anchor="mm")
    return label.rotate(90, expand=True)


def save_interp(images, columns, rows, paths):
    """The panel g(z) over the latent plane: z_1 from left to right, z_2 from top to bottom.

    images   (len(rows) * len(columns), 3, h, w) in [-1, 1], row by row from the top left
    columns  values of z_1;  rows  values of z_2, [] for one row of images
    paths    files to draw to, .png or .pdf
    """
    ncol, nrow = len(columns), max(1, len(rows))
    side = 2 * COLUMN - MARGIN                         # of the cells; save_figure adds the labels
    with matplotlib.rc_context({**STYLE, "xtick.major.size": 0, "ytick.major.size": 0}):
        fig = Figure(figsize=(side, side * nrow / ncol))
        ax = fig.add_axes((0, 0, 1, 1))
        sheet = _tile(images, ncol)
        ax.imshow(sheet, interpolation="none", aspect="equal")
        decimals = max(0, 2 - math.floor(math.log10(max(map(abs, columns)))))
        every = math.ceil(ncol / 16)                   # more labels than this would touch
        for set_ticks, values, pitch in ((ax.set_xticks, columns, sheet.shape[1] / ncol),
                                         (ax.set_yticks, rows, sheet.shape[0] / nrow)):
            labels = [f"{round(v, decimals) + 0.0:.{decimals}f}" for v in values]   # + 0.0: no -0
            set_ticks(((np.arange(len(values)) + 0.5) * pitch)[::every], labels[::every])
        ax.set_xlabel("$z_1$")
        if len(rows):
            ax.set_ylabel("$z_2$")
        for spine in ax.spines.values():
            spine.set_visible(False)
        pixels = min(MOST_PIXELS, ncol * (images.shape[-1] + GAP))
        save_figure(fig, paths, dpi=pixels / side)


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
                ax.plot(epochs, [r[key] for r in rows], label=f"{start} start", marker=marker,
                        **LINES[start])
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
    """The training images as thumbnails at their z in the latent plane.

    z (n, nz), of which the first two coordinates count; images (n, 3, h, w) in [-1, 1]. At most
    `most` thumbnails, and a dot for every image. The circles of radius 1, 2, 3 prior_sigma hold
    39 %, 86 % and 99 % of a 2-D prior.
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
        zoom = 17 / images.shape[-1]  # thumbnails of about 17 points
        for point, picture in zip(plane[::step], to_pixels(images[::step]), strict=True):
            thumbnail = OffsetImage(picture, zoom=zoom, interpolation="lanczos")
            ax.add_artist(AnnotationBbox(thumbnail, point, frameon=False))
        reach = max(3.1 * prior_sigma, 1.15 * np.abs(plane).max())
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$z_1$",
               ylabel="$z_2$" if z.shape[1] > 1 else "")
        save_figure(fig, [path])


def save_side_by_side(cells, path):
    """PNG files side by side, each under its title; cells are rows of (title, path)."""
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


def draw_pairs(folder, histories, config):
    """The handout's warm-cold figures; histories {"warm": rows, "cold": rows} or one of them."""
    if len(histories) < 2:
        return
    plot_stats(histories, [folder / "warm_cold_loss.png", folder / "warm_cold_loss.pdf"])
    for name in ("recon", "samples", "interp"):
        rows = [[(f"{start} start, {config.n_epochs} epochs", folder / start / f"{name}.png")
                 for start in histories]]
        halves = [half_way(folder / start / "epochs", config.n_epochs) for start in histories]
        if name == "recon" and None not in halves:                   # the handout's Figure 2
            rows.insert(0, [(f"{start} start, {epoch} epochs", path)
                            for start, (epoch, path) in zip(histories, halves, strict=True)])
        save_side_by_side(rows, folder / f"warm_cold_{name}.png")
