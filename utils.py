"""Images in, pictures of a run out: reconstructions, random samples, the panel, loss curves, and their measures."""
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
from matplotlib import font_manager, ft2font
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw, ImageFont, ImageOps

from inference.masks import hidden_error, hide
from inference.posterior import sample_gaussian_prior, squared_distances
from runs.files import list_images, write_atomic, write_json
from runs.manuscript import METRICS, half_way  # noqa: F401  METRICS is read by evaluation
from runs.options import UserError

COLUMN = 3.3                     # inches, the width of a column of a report; figures are 1 or 2 columns wide
TEXT = 8                         # points, the size of captions
SMALL = 7                        # points, of numbers along axes and titles of small panels
STYLE = {
    "font.family": "serif", "font.serif": ["cmr10"], "mathtext.fontset": "cm", "font.size": TEXT,
    "axes.formatter.use_mathtext": True,                  # cmr10 itself has no minus
    "axes.titlesize": TEXT, "axes.labelsize": TEXT, "legend.fontsize": TEXT,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "axes.linewidth": 0.6, "lines.linewidth": 1.0,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42}
# Okabe and Ito's colours, told apart by everyone, and line styles for print in grey
LINES = {"warm": {"color": "#d55e00", "linestyle": "-"},
         "cold": {"color": "#0072b2", "linestyle": (0, (4, 1.5))}}
LATENT = {"marker": "x", "color": "#d55e00", "markersize": 4}      # where the run's z stands on a map
# File names are set as in the report's \texttt: cmr10 has other signs in the places of _ and |
FAMILIES = ["cmtt10", "DejaVu Sans Mono"]
FILE_NAME = {"family": FAMILIES, "fontsize": SMALL, "parse_math": False}
LONGEST = 18                     # characters of a file name in a figure; longer ones lose their middle


def file_name(name):
    """A file name as a figure can show it, with FILE_NAME: short, with ? for what the fonts do not have."""
    name = "".join(c if ord(c) in _known() else "?" for c in name)
    return name if len(name) <= LONGEST else f"{name[:LONGEST // 2 - 1]}...{name[2 - LONGEST // 2:]}"


@cache
def _known():
    return frozenset(ft2font.FT2Font(font_manager.findfont(FAMILIES[-1])).get_charmap())


@cache
def picture_font(pixels):
    """Computer Modern of a size in pixels, for text in PNG pictures."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"), pixels)


def picture_text(width):
    """The size in pixels of TEXT in a picture of `width` pixels that is printed two columns wide."""
    return round(width * TEXT / (72 * 2 * COLUMN))


# -------------------------------------------------------------------------------------------------- images in

def load_image(path, img_size, resampling=Image.Resampling.LANCZOS):
    """One file as a (3, img_size, img_size) float32 tensor in [-1, 1]: 0 -> -1, 255 -> 1.

    Turned as its EXIF orientation says, first frame of an animation, transparency laid on white, grey and
    palette and CMYK made RGB, 16 bits brought to 8, cropped square at the centre, resized (with antialiasing,
    unless another of Pillow's ways is given).
    Raises UserError naming the file if it is no image, is truncated, or is above Pillow's limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)         # odd metadata is none of the user's concern
            with Image.open(path) as file:
                image = _to_rgb(_exif_upright(file))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels; "
                        "make it smaller or take it out of the folder") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:     # all of these are Pillow's "broken"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as an image ({reason.replace(repr(str(path)), 'it')}); "
                        "mend it or take it out of the folder") from None
    image = ImageOps.fit(image, (img_size, img_size), resampling)
    return to_tensor(image)


def _exif_upright(image):
    try:
        return ImageOps.exif_transpose(image)
    except struct.error:               # EXIF data too broken to be read: the picture stays as it lies
        return image


def _to_rgb(image):
    if image.mode.startswith("I;16") or image.mode == "I":     # 16-bit grey: convert() would clip it to white
        grey = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_tensor(image):
    """A PIL RGB image (w, h) as a float32 tensor (3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_pixels(images):
    """Images (..., 3, h, w) in [-1, 1] as a uint8 array (..., h, w, 3): a fixed range, never stretched."""
    pixels = ((images.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255)
    return pixels.byte().movedim(-3, -1).numpy()


def to_side(images, side):
    """Images (n, 3, S, S) at another side, powers of two both: pixels averaged, or repeated."""
    factor = images.shape[-1] // side
    if factor > 1:
        return torch.nn.functional.avg_pool2d(images, factor)
    factor = side // images.shape[-1]
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def load_img_tensors(folder, img_size):
    """All images of a folder, sorted by file name: (n, 3, img_size, img_size) in [-1, 1], and their names.

    Raises UserError as `list_images` and `load_image` do.
    """
    paths = list_images(folder)
    images = torch.empty(len(paths), 3, img_size, img_size)
    for i, path in enumerate(paths):
        images[i] = load_image(path, img_size)
    return images, [p.name for p in paths]


# ---------------------------------------------------------------- pictures

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


# ---------------------------------------------------------------- results

N_SAMPLES = 96             # random samples that are drawn and measured
SATURATED = 0.98           # |x| beyond which a pixel counts as burnt
MOST_RECON = 48            # reconstructions in a figure; of a larger folder, evenly spaced ones


@torch.no_grad()
def generate(net, z, side=None):
    """g(z) in float32, a few at a time: z (n, nz) -> images (n, 3, S, S) on the CPU, or of another side."""
    def images(part):
        full = net(part).float().cpu()
        return full if side is None else to_side(full, side)

    return torch.cat([images(part) for part in z.split(64)])


def sample_images(net, config, n=N_SAMPLES):
    """Random samples: g of n draws of the prior, the same for the same seed; the data has no part in them."""
    generator = torch.Generator().manual_seed(config.seed)
    draws = sample_gaussian_prior(n, config.nz, config.prior_sigma, generator)
    return generate(net, draws.to(next(net.parameters()).device))


def reconstruction(net, z, images, mse_sigma, mask=None):
    """loss (Eq. 7), mse and psnr of images (n, 3, S, S) at their z (n, nz), in float32.

    psnr is the mean over images of 10 log10(4 / mse_i), in dB. With a mask (n, 1, S, S) all three are of the
    visible pixels: the loss sums over them, mse_i is the mean over those of image i.
    """
    def squared_error(part):
        squares = (generate(net, z[part]) - images[part]).square()
        return (squares if mask is None else squares * mask[part]).mean((1, 2, 3))

    error = torch.cat([squared_error(slice(k, k + 64)) for k in range(0, len(z), 64)])
    loss = error.mean().item() * images[0].numel() / (2 * mse_sigma**2)
    mse = error if mask is None else error / mask.mean((1, 2, 3))
    return {"loss": loss, "mse": mse.mean().item(),
            "psnr": (10 * torch.log10(4 / mse)).mean().item()}


def measure(net, z, images, samples, config, mask=None):
    """The numbers of metrics.json that say how good a generator and its latents are, in float32.

    sample_saturated and data_saturated are fractions of pixels with |x| > .98, in random samples and in the
    images; sample_nearest_psnr is the PSNR of random samples to the training image nearest to each, mean and
    10th percentile. With a mask (n, 1, S, S) the reconstruction is measured on visible pixels, all of the
    image is what samples are compared with, and `hidden_error` tells how well hidden pixels are recovered.
    """
    distances = torch.cat([squared_distances(samples, x) for x in images.split(256)], 1)
    nearest = distances.min(1).values / images[0].numel()
    nearest_psnr = 10 * torch.log10(4 / nearest)
    hidden = {} if mask is None else hidden_error(generate(net, z), images, mask)
    return reconstruction(net, z, images, config.mse_sigma, mask) | hidden | {
        "z_std": z.std(0, correction=0).mean().item(),
        "z_mean_square": z.square().mean().item(),
        "sample_saturated": _saturation(samples),
        "data_saturated": _saturation(images),
        "sample_nearest_psnr": nearest_psnr.mean().item(),
        "sample_nearest_psnr_p10": nearest_psnr.quantile(0.1).item(),
    }


def _saturation(images):
    return sum((part.abs() > SATURATED).sum().item() for part in images.split(256)) / images.numel()


def panel_range(z, prior_sigma):
    """d of the panel over (-d, d)^2: the 95th percentile of |z_k|, held between 1 and 3 stds of the prior."""
    d = z[:, :2].abs().flatten().quantile(0.95).item() / prior_sigma
    return round(min(3.0, max(1.0, d)), 1) * prior_sigma


def panel_axes(d, ninterp, nz):
    """Values of z_1 from left to right and of z_2 from top to bottom; none of z_2 where nz is 1."""
    values = torch.linspace(-d, d, ninterp)
    return values.tolist(), values.flip(0).tolist() if nz > 1 else []


def panel_latents(columns, rows, nz):
    """The z of every cell, row by row from the top left: (cells, nz); coordinates beyond the second are 0."""
    z = torch.zeros(len(columns) * max(1, len(rows)), nz)
    z[:, 0] = torch.tensor(columns).repeat(max(1, len(rows)))
    if rows:
        z[:, 1] = torch.tensor(rows).repeat_interleave(len(columns))
    return z


def panel(net, z, config):
    """The cells of the interpolation panel, row by row from the top left, and its axes z_1 and z_2."""
    columns, rows = panel_axes(panel_range(z, config.prior_sigma), config.ninterp, config.nz)
    return generate(net, panel_latents(columns, rows, config.nz).to(z.device)), columns, rows


def draw_recon(net, z, images, path, mask=None):
    """Training images and their reconstructions; of a large folder, evenly spaced ones.

    With a mask (n, 1, S, S): images as seen, hidden pixels mid grey, reconstructions, and whole images.
    """
    shown = torch.arange(0, len(z), math.ceil(len(z) / MOST_RECON))
    x, recon = images[shown], generate(net, z[shown.to(z.device)])
    save_recon({"image": x, "g(z)": recon} if mask is None else
                      {"seen": hide(x, mask[shown]), "g(z)": recon, "image": x}, path)


def draw_snapshot(net, z, images, config, folder, epoch, mask=None):
    """Reconstructions, samples and the plain panel: EPOCH_recon.png, EPOCH_samples.png, EPOCH_interp.png."""
    draw_recon(net, z, images, folder / f"{epoch:04d}_recon.png", mask)
    save_images(sample_images(net, config), folder / f"{epoch:04d}_samples.png")
    save_images(panel(net, z, config)[0], folder / f"{epoch:04d}_interp.png", config.ninterp)


def write_start(net, z, images, history, config, folder, mask=None):
    """All results of one finished start in its folder: every figure, then metrics.json."""
    samples = sample_images(net, config)
    draw_recon(net, z, images, folder / "recon.png", mask)
    save_images(samples, folder / "samples.png")
    save_interp(*panel(net, z, config), [folder / "interp.png", folder / "interp.pdf"])
    plot_stats({folder.name: history}, [folder / "loss.png", folder / "loss.pdf"])
    plot_latents(z, images, config.prior_sigma, folder / "latents.pdf")
    metrics = measure(net, z, images, samples, config, mask)
    metrics |= {"panel_range": panel_range(z, config.prior_sigma),
                "seconds": sum(r["seconds"] for r in history), "epochs": len(history),
                "passes": sum(r["passes"] for r in history),
                "n_images": len(images), "img_size": config.img_size,
                "n_parameters": sum(p.numel() for p in net.parameters())}
    write_json(folder / "metrics.json", metrics)
    return metrics


def write_run(folder, metrics, histories, config):
    """With both starts, the handout's warm-cold figures.

    metrics, histories  {"warm": ..., "cold": ...} or one of the two
    """
    if len(metrics) < 2:
        return
    plot_stats(histories, [folder / "warm_cold_loss.png", folder / "warm_cold_loss.pdf"])
    for name in ("recon", "samples", "interp"):
        rows = [[(f"{start} start, {config.n_epochs} epochs", folder / start / f"{name}.png")
                 for start in metrics]]
        halves = {start: half_way(folder / start / "epochs", config.n_epochs) for start in metrics}
        if name == "recon" and None not in halves.values():                          # the handout's Figure 2
            rows.insert(0, [(f"{start} start, {epoch} epochs", path)
                            for start, (epoch, path) in halves.items()])
        save_side_by_side(rows, folder / f"warm_cold_{name}.png")
