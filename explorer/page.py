"""explorer.html: a page on which the latent plane is moved over and the generated image follows at once.

The page does not run the network: it holds g(z) on a grid over the plane. Neighbours on the grid are alike,
so the images are stored as their mean and a few principal components (on the default run 2.4 MB, 42 dB from
g(z) on average; a sheet of JPEGs has 8.6 MB and 36 dB), and a picture between them costs one sum of those.
"""
import base64
import json
import math
import zlib
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

from explorer.movies import tour
from inference.measures import generate, panel_latents, to_side
from runs.files import write_atomic
from utils import to_pixels

REACH = 3                  # prior stds from 0 to the edge of the plane
GRID = 32                  # points along each side of the plane
LINE = 256                 # points along the line that the plane is where nz is 1
SIDE = 128                 # pixels along the side of the stored images, at most
COMPONENTS = 96            # principal components, a multiple of 4 (the page adds four at a time)
OVERSAMPLING = 32          # directions beside them that the search begins with: half a decibel
STEP = 0.5                 # in grey levels: how finely components are stored, doubled until the page is small
MOST_BYTES = 4_000_000     # of the page
MOST_THUMBNAILS = 60
THUMBNAIL = 64             # pixels along the side of a thumbnail, at most


def write_explorer(net, z, images, config, path):
    """Write the page of a trained generator, one file that needs nothing else, of at most MOST_BYTES.

    z (n, nz), images (n, 3, S, S) in [-1, 1]: training images, shown at their z
    path                                       RUN/START/explorer.html; START is named on the page
    """
    cells, columns, rows = grid_images(net, config)
    mean, basis, coefficients = principal_components(cells.flatten(1), COMPONENTS)
    del cells                                              # 200 MB
    content = _words(z, config, path.parent.name) | _thumbnails(z, images, config) | {
        "columns": columns, "rows": rows, "side": min(SIDE, config.img_size), "mean": _pack(mean)}
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    template = template.replace("@SCRIPT@", script)
    step, page = STEP, None
    while page is None or len(page) > MOST_BYTES:
        content |= _quantise(basis, coefficients, step)
        text = json.dumps(content).replace("<", "\\u003c")           # a name must not end the script element
        page, step = template.replace("@DATA@", text), 2 * step
    write_atomic(path, page)


def grid_images(net, config):
    """g(z) on the page's grid: (columns * rows, 3, side, side) in [-1, 1], columns, rows.

    z_1 grows along the columns, z_2 with the rows; coordinates beyond the second are 0.
    """
    columns, rows = (GRID, GRID) if config.nz > 1 else (LINE, 1)
    reach = REACH * config.prior_sigma
    axes = [torch.linspace(-reach, reach, n).tolist() for n in (columns, rows)]
    z = panel_latents(axes[0], axes[1] if config.nz > 1 else [], config.nz).to(next(net.parameters()).device)
    side = min(SIDE, config.img_size)
    return generate(net, z, side), columns, rows


def principal_components(x, k):
    """The mean and the k strongest principal components of points x (n, p), and the points' coordinates.

    Returns mean (p,), basis (k, p) with orthonormal rows, coordinates (n, k); k falls to min(n, p) if that is
    less. x is overwritten. By subspace iteration from a fixed draw; the global random state is left alone.
    """
    mean = x.mean(0)
    x -= mean
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        _, _, basis = torch.svd_lowrank(x, q=min(k + OVERSAMPLING, *x.shape), niter=1)
    basis = basis[:, :k]
    return mean, basis.T, x @ basis


def _quantise(basis, coefficients, step):
    """Components in bytes, each as finely as its coefficients' size asks for, and coefficients in 16 bits.

    The error of a component times the rms of its coefficients is that of rounding to `step` grey levels:
    strong ones get many levels, weak ones few, which deflates well.
    """
    rms = coefficients.square().mean(0).sqrt().clamp(min=1e-6) * 127.5
    unit = torch.maximum(step / rms, basis.abs().amax(1) / 127)[:, None]
    amplitudes = coefficients * unit.T * 127.5             # of the stored components, in grey levels
    scales = amplitudes.abs().amax(0).clamp(min=1e-6) / 32767
    return {"basis": _deflate((basis / unit).round().to(torch.int8)),
            "coefficients": _deflate((amplitudes / scales).round().to(torch.int16)),
            "scales": [float(f"{scale:.6g}") for scale in scales]}


def _pack(mean):
    return _deflate(((mean + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


def _deflate(values):
    """A tensor's bytes (little-endian, as all machines that run this are), deflated, in base64."""
    return base64.b64encode(zlib.compress(values.contiguous().numpy().tobytes(), 6)).decode()


def _thumbnails(z, images, config):
    """Training images inside the plane, evenly spaced ones if there are many: a sheet in a row, their places.

    JPEG's blocks of 8 x 8 pixels, without subsampled colours, never lie across two thumbnails.
    """
    plane = torch.zeros(len(z), 2)
    plane[:, :min(2, z.shape[1])] = z[:, :2].cpu()
    inside = (plane.abs() <= REACH * config.prior_sigma).all(1).nonzero().flatten()
    shown = inside[::max(1, math.ceil(len(inside) / MOST_THUMBNAILS))]
    content = {"points": [[round(v, 6) for v in point] for point in plane[shown].tolist()]}
    content["tour"] = [content["points"][k] for k in tour(plane[shown])]
    content["legend"] = _legend(config, len(z), len(inside), len(shown))
    if len(shown):
        side = min(THUMBNAIL, config.img_size)
        sheet = torch.cat([to_side(images[k:k + 1], side)[0] for k in shown.tolist()], dim=2)
        buffer = BytesIO()
        Image.fromarray(to_pixels(sheet)).save(buffer, "JPEG", quality=90, subsampling=0)
        content["sheet"] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return content


def _words(z, config, start):
    other = [name for name in config.starts if name != start]
    return {"start": start, "other": other[0] if other else None, "reach": REACH * config.prior_sigma,
            "prior_sigma": config.prior_sigma}


def _legend(config, n, n_inside, n_shown):
    """What the plane shows, in sentences."""
    marks, shares = ("Lines", "68, 95 and 99.7") if config.nz == 1 else ("Circles", "39, 86 and 99")
    kind = "line" if config.nz == 1 else "plane"
    text = [f"Shading: the density of the prior. {marks}: 1, 2 and 3 of its standard deviations, which hold "
            f"{shares} % of its draws."]
    if config.nz > 2:
        rest = "z₃ is" if config.nz == 3 else f"z₃ to z{str(config.nz).translate(SUBSCRIPTS)} are"
        text.append(f"The latent has {config.nz} dimensions: {rest} 0 here, and a training image stands at "
                    "its first two coordinates, so that the picture there is not its reconstruction.")
    if n_inside < n:
        text.append(f"{n - n_inside} of the {n} training images lie beyond the edge.")
    if n_shown < n_inside:
        text.append(f"{n_shown} training images of the {n_inside} on the {kind} are shown.")
    grid = f"{LINE}" if config.nz == 1 else f"{GRID}\u00a0×\u00a0{GRID}"
    text.append(f"Pictures are interpolated between {grid} generated ones.")
    return " ".join(text)


SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
