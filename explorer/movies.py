"""Movies (WebP) of a start: a walk through its latents, and its panel during training."""
import io
import math

import torch
from PIL import Image, ImageDraw, ImageFont

from inference.measures import generate, panel_axes, panel_latents, to_side
from runs.files import write_atomic
from utils import to_pixels

MOST_BYTES = 1_500_000     # of a movie
QUALITIES = (85, 75, 60, 45, 30, 15)           # of WebP; the first that fits

# the walk
SIDE = 128                 # pixels
MOST_STOPS = 24            # training images on the walk
PER_STOP = 10              # frames for each of them
PACE = 50                  # ms a frame

# the panel during training
CELLS = 6                  # along each side
CELL = 64                  # pixels along the side of a cell
EDGE = 2.0                 # prior stds from 0 to the outermost cells, the same in every frame
BAR = 28                   # pixels above the cells, for the epoch
TEMPO, HOLD = 120, 3000    # ms a frame, and for the last


# ---- the walk

def write_walk(net, z, path):
    """Write g(z) on a closed polygon through the latents z (n, nz) of the training images."""
    latents = walk_latents(net, z[::math.ceil(len(z) / MOST_STOPS)])
    pictures = [Image.fromarray(picture) for picture in to_pixels(generate(net, latents, SIDE))]
    save_movie(pictures, [PACE] * len(pictures), path)


def walk_latents(net, stops):
    """The z of the frames: stops (n, nz) -> (PER_STOP n, nz), or the stop itself if there is one.

    Steps are even in the mean of two lengths, in the plane and between images: with steps that are
    even in the plane alone, the picture jumps where the generator changes fast.
    """
    if len(stops) == 1:
        return stops
    n_frames, order = PER_STOP * len(stops), tour(stops)
    path = stops[[*order, order[0]]]
    even = along(path, lengths(path), n_frames + 1)              # the last is the first again
    images = generate(net, even, 32).flatten(1).to(even.device)
    both = sum(part / part[-1].clamp(min=1e-12) for part in (lengths(even), lengths(images)))
    return along(even, both, n_frames + 1)[:-1]


def lengths(path):
    """Distance along a path (n, d) from its start to each of its points: (n,)."""
    steps = (path[1:] - path[:-1]).norm(dim=1)
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def along(path, distances, n):
    """n points on the segments of a path (m, d), evenly spaced in its `distances` (m,)."""
    targets = torch.linspace(0, 1, n, device=path.device) * distances[-1]
    k = torch.searchsorted(distances, targets).clamp(1, len(path) - 1)
    step = (distances[k] - distances[k - 1]).clamp(min=1e-12)
    fraction = (targets - distances[k - 1]) / step
    return torch.lerp(path[k - 1], path[k], fraction.clamp(0, 1)[:, None])


def tour(points):
    """A short closed tour of points (n, d): indices in order. Nearest neighbours, then 2-opt."""
    if not len(points):
        return []
    distance = torch.cdist(points, points).tolist()
    order, left = [0], set(range(1, len(points)))
    while left:
        order.append(min(left, key=lambda k: (distance[order[-1]][k], k)))
        left.remove(order[-1])
    while _shortened(order, distance):
        pass
    return order


def _shortened(order, distance):
    """Reverse a part of the tour if that shortens it -> whether there was one."""
    n = len(order)
    for i in range(1, n - 1):
        for j in range(i + 1, n):
            a, b, c, d = order[i - 1], order[i], order[j], order[(j + 1) % n]
            old, new = distance[a][b] + distance[c][d], distance[a][c] + distance[b][d]
            if new < (1 - 1e-6) * old:                # no endless loop of equal lengths
                order[i:j + 1] = order[i:j + 1][::-1]
                return True
    return False


# ---- the panel during training

def is_frame(epoch):
    """Whether an epoch has a frame: each of the first 16, then 8 between n and 2 n.

    Independent of n_epochs, so that the frames of an extended run stay the same.
    """
    return epoch % 2 ** max(0, epoch.bit_length() - 4) == 0


def save_frame(net, config, folder, epoch):
    """Write the panel as folder/EPOCH.webp: a file per frame, for runs that are resumed."""
    columns, rows = panel_axes(EDGE * config.prior_sigma, CELLS, config.nz)
    z = panel_latents(columns, rows, config.nz).to(next(net.parameters()).device)
    cells = to_side(generate(net, z), CELL)
    n_rows = max(1, len(rows))
    sheet = cells.unflatten(0, (n_rows, CELLS)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    frame = Image.new("RGB", (CELLS * CELL, BAR + n_rows * CELL), "white")
    frame.paste(Image.fromarray(to_pixels(sheet)), (0, BAR))
    font = ImageFont.load_default(16)
    ImageDraw.Draw(frame).text((4, BAR / 2), f"epoch {epoch}", "black", font, anchor="lm")
    buffer = io.BytesIO()
    frame.save(buffer, format="WEBP", quality=95, method=2)
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{epoch:04d}.webp", buffer.getvalue())


def write_training(folder, n_epochs, path):
    """Write the frames of a folder, if any, as a movie.

    Frames after n_epochs are from a longer run that was interrupted.
    """
    frames = {int(p.stem): p for p in folder.glob("[0-9]*.webp") if p.stem.isdigit()}
    pictures = [Image.open(frames[epoch]) for epoch in sorted(frames) if epoch <= n_epochs]
    if pictures:
        save_movie(pictures, [TEMPO] * (len(pictures) - 1) + [HOLD], path)


def save_movie(pictures, durations, path):
    """Write RGB pictures as an endless movie, durations in ms; at most MOST_BYTES if possible."""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        pictures[0].save(buffer, format="WEBP", save_all=True, append_images=pictures[1:],
                         duration=durations, loop=0, quality=quality, method=2)
        if buffer.tell() <= MOST_BYTES:
            break
    write_atomic(path, buffer.getvalue())
