"""explorer.html: a page that shows the generated image at the pointer's place in the latent plane.

It holds g(z) on a grid over the plane as a mean image and principal components, and interpolates
their coefficients.
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
LINE = 256                 # points along the line that replaces the plane if nz is 1
SIDE = 128                 # largest side of the stored images in pixels
COMPONENTS = 96            # principal components, a multiple of 4 (page.js adds four at a time)
OVERSAMPLING = 32          # further directions of the randomised search; worth 0.5 dB
STEP = 0.5                 # grey levels; quantisation step, doubled until the page is small enough
MOST_BYTES = 4_000_000     # of the page
MOST_THUMBNAILS = 60
THUMBNAIL = 64             # largest side of a thumbnail in pixels
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def write_explorer(net, z, images, config, path):
    """Write the page of a trained generator: one self-contained file of at most MOST_BYTES.

    z (n, nz), images (n, 3, S, S) in [-1, 1]  training images, shown at their z
    path                                       RUN/START/explorer.html; the page names START
    """
    cells, columns, rows = grid_images(net, config)
    mean, basis, coefficients = principal_components(cells.flatten(1), COMPONENTS)
    del cells                                              # 200 MB
    start = path.parent.name
    content = _thumbnails(z, images, config) | {
        "start": start, "other": next((name for name in config.starts if name != start), None),
        "reach": REACH * config.prior_sigma, "prior_sigma": config.prior_sigma, "columns": columns,
        "rows": rows, "side": min(SIDE, config.img_size),
        "mean": _deflate(((mean + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))}
    template, script = (Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")
                        for suffix in (".html", ".js"))
    template = template.replace("@SCRIPT@", script)
    step, page = STEP, None
    while page is None or len(page) > MOST_BYTES:
        content |= _quantise(basis, coefficients, step)
        text = json.dumps(content).replace("<", "\\u003c")       # a name must not end the script
        page, step = template.replace("@DATA@", text), 2 * step
    write_atomic(path, page)


def grid_images(net, config):
    """g(z) on the grid: (columns * rows, 3, side, side) in [-1, 1], columns, rows.

    z_1 grows along the columns, z_2 along the rows; other coordinates are 0.
    """
    columns, rows = (GRID, GRID) if config.nz > 1 else (LINE, 1)
    reach = REACH * config.prior_sigma
    x, y = (torch.linspace(-reach, reach, n).tolist() for n in (columns, rows))
    z = panel_latents(x, y if config.nz > 1 else [], config.nz)
    z = z.to(next(net.parameters()).device)
    return generate(net, z, min(SIDE, config.img_size)), columns, rows


def principal_components(x, k):
    """The k first principal components of points x (n, p), which is overwritten.

    Returns mean (p,), basis (k, p) with orthonormal rows and coefficients (n, k); k is at most
    min(n, p). Randomised with a fixed seed; the global random state is unchanged.
    """
    mean = x.mean(0)
    x -= mean
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        _, _, basis = torch.svd_lowrank(x, q=min(k + OVERSAMPLING, *x.shape), niter=1)
    basis = basis[:, :k]
    return mean, basis.T, x @ basis


def _quantise(basis, coefficients, step):
    """Components in 8 bits and coefficients in 16 bits.

    The rounding step of a component, times the rms of its coefficients, is `step` grey levels, so
    weak components have few levels and compress well.
    """
    rms = coefficients.square().mean(0).sqrt().clamp(min=1e-6) * 127.5
    unit = torch.maximum(step / rms, basis.abs().amax(1) / 127)[:, None]
    amplitudes = coefficients * unit.T * 127.5       # of stored components, in grey levels
    scales = amplitudes.abs().amax(0).clamp(min=1e-6) / 32767
    return {"basis": _deflate((basis / unit).round().to(torch.int8)),
            "coefficients": _deflate((amplitudes / scales).round().to(torch.int16)),
            "scales": [float(f"{scale:.6g}") for scale in scales]}


def _deflate(values):
    """The bytes of a tensor (little-endian), deflated, in base64."""
    return base64.b64encode(zlib.compress(values.contiguous().numpy().tobytes(), 6)).decode()


def _thumbnails(z, images, config):
    """Training images in the plane (of many, evenly spaced ones): positions, tour and sheet.

    The sides are multiples of JPEG's 8 x 8 blocks and colours are not subsampled, so neighbours do
    not mix.
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


def _legend(config, n, n_inside, n_shown):
    """The legend of the plane."""
    marks, percent, kind, grid = "Circles", "39, 86 and 99", "plane", f"{GRID}\u00a0×\u00a0{GRID}"
    if config.nz == 1:
        marks, percent, kind, grid = "Lines", "68, 95 and 99.7", "line", f"{LINE}"
    text = [f"Shading: density of the prior. {marks}: 1, 2 and 3 standard deviations; {percent} % "
            "of the prior's draws lie within."]
    if config.nz > 2:
        rest = "z₃ is" if config.nz == 3 else f"z₃ to z{str(config.nz).translate(SUBSCRIPTS)} are"
        text.append(f"The latent has {config.nz} dimensions: {rest} 0 here. A training image is "
                    "at its first two coordinates; the picture there is not its reconstruction.")
    if n_inside < n:
        text.append(f"{n - n_inside} of the {n} training images lie beyond the edge.")
    if n_shown < n_inside:
        text.append(f"{n_shown} training images of the {n_inside} on the {kind} are shown.")
    return " ".join([*text, f"Pictures are interpolated between {grid} generated images."])
