"""The walk and the training movie: frames, loops, resumed runs, sizes."""
import signal

import numpy as np
import pytest
import torch
from conftest import command, smooth_generator
from PIL import Image, ImageSequence

from abp import Config, main
from explorer import movies, pictures
from explorer.movies import along, is_frame, lengths, tour, walk_latents, write_walk
from inference.measures import generate, panel_axes, panel_latents, to_side
from models import GenNet
from utils import to_pixels


def frames(path):
    """The frames of an endless movie (n, h, w, 3) in 0 to 255, and their durations in ms."""
    with Image.open(path) as movie:
        assert movie.info["loop"] == 0
        seen = [(np.asarray(frame.convert("RGB"), float), frame.info["duration"])
                for frame in ImageSequence.Iterator(movie)]
    pictures, durations = zip(*seen, strict=True)
    return np.stack(pictures), durations


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a - b).mean())


def test_walk_is_a_closed_loop_of_generated_images(tmp_path):
    net, z = smooth_generator(), torch.randn(5, 2)
    path = tmp_path / "walk.webp"
    write_walk(net, z, path)
    seen, durations = frames(path)
    assert seen.shape == (10 * len(z), 128, 128, 3) and set(durations) == {50}
    truth = to_pixels(generate(net, walk_latents(net, z), 128)).astype(float)
    assert min(psnr(a, b) for a, b in zip(seen, truth, strict=True)) > 30
    assert psnr(seen[0], truth[5]) < 25                     # another frame
    steps = np.abs(np.diff(truth, axis=0)).mean((1, 2, 3))
    assert np.abs(truth[-1] - truth[0]).mean() < 1.5 * steps.max()
    first = path.read_bytes()
    write_walk(net, z, path)
    assert path.read_bytes() == first and path.stat().st_size < 1_500_000


def test_walk_passes_every_stop_in_even_steps():
    net, z = smooth_generator(), torch.randn(5, 2)
    walk = walk_latents(net, z)
    closed = torch.cat([walk, walk[:1]])
    legs = closed[1:] - closed[:-1]
    for stop in z:                                          # the stop lies between two frames
        along_leg = (((stop - closed[:-1]) * legs).sum(1) / legs.square().sum(1)).clamp(0, 1)
        nearest = (closed[:-1] + along_leg[:, None] * legs - stop).norm(dim=1).min()
        assert nearest < 0.5 * legs.norm(dim=1).max()

    def roughness(latents):
        steps = generate(net, latents).flatten(1).diff(dim=0).norm(dim=1)
        return steps.max() / steps.mean()

    path = z[[*tour(z), 0]]
    assert roughness(closed) < roughness(along(path, lengths(path), 51))


@pytest.mark.parametrize("n, nz, n_frames", [
    (1, 2, 1), (2, 1, 20), (3, 5, 30), (24, 2, 240), (100, 2, 200)])
def test_walks_of_other_shapes(tmp_path, n, nz, n_frames):
    torch.manual_seed(0)
    net = GenNet(nz, 16, 16, 2).requires_grad_(False)
    write_walk(net, torch.randn(n, nz), tmp_path / "walk.webp")
    with Image.open(tmp_path / "walk.webp") as movie:
        assert movie.n_frames <= n_frames and movie.size == (128, 128)


def test_tour_of_a_circle_is_the_circle():
    angle = torch.rand(20, generator=torch.Generator().manual_seed(1)) * 6.28
    order = tour(torch.stack([angle.cos(), angle.sin()], 1))
    around = angle.argsort().roll(-int(angle.argsort().argmin())).tolist()
    assert order in (around, around[:1] + around[:0:-1])
    assert tour(torch.zeros(0, 2)) == [] and sorted(tour(torch.zeros(4, 2))) == [0, 1, 2, 3]


def test_frames_are_frequent_at_first_and_independent_of_n_epochs():
    epochs = [epoch for epoch in range(1, 241) if is_frame(epoch)]
    assert epochs[:20] == [*range(1, 17), 18, 20, 22, 24] and epochs[-3:] == [208, 224, 240]
    assert len(epochs) == 47
    assert all(sum(is_frame(e) for e in range(n, 2 * n)) == 8 for n in (16, 64, 100, 4096))


def test_resumed_and_extended_runs_continue_the_movie(faces, tmp_path, monkeypatch):
    whole, part = (tmp_path / name for name in ("whole", "part"))
    options = {"start": "warm", "n_epochs": 21, "n_plot": 100, "n_stats": 100, "n_log": 5}
    assert main(command(faces, f"--out={whole}", **options)) == 0
    draw_epoch = pictures.draw_epoch

    def stop_after_seven(model, folder):
        if model.epoch == 7:
            signal.raise_signal(signal.SIGINT)
        return draw_epoch(model, folder)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "draw_epoch", stop_after_seven)
        assert main(command(faces, f"--out={part}", **options)) == 130
    assert main(["--resume", str(part)]) == 0
    movie = whole / "warm" / "training.webp"
    assert movie.read_bytes() == (part / "warm" / "training.webp").read_bytes()
    seen, durations = frames(movie)
    assert seen.shape == (16 + 2 + 1, 28 + 6 * 64, 6 * 64, 3)      # 1 to 16, 18, 20, 21
    assert durations == (120,) * 18 + (3000,)
    assert main(["--resume", str(part), "--n_epochs", "22"]) == 0
    assert len(frames(part / "warm" / "training.webp")[0]) == 20


def test_frames_do_not_change_training(make_model, tmp_path):
    plain = make_model()
    list(plain)
    drawn = make_model()
    for row in drawn:
        movies.save_frame(drawn.net, drawn.config, tmp_path, row["epoch"])
    assert torch.equal(plain.z, drawn.z)


@pytest.mark.parametrize("nz, img_size", [(2, 16), (1, 64), (3, 128)])
def test_a_frame_is_the_panel_at_its_epoch(tmp_path, nz, img_size):
    config = Config(nz=nz, img_size=img_size, hidden=16, width=4, prior_sigma=2)
    net = smooth_generator(nz, img_size, 16)
    movies.save_frame(net, config, tmp_path / "frames", 12)
    with Image.open(tmp_path / "frames" / "0012.webp") as frame:
        seen = np.asarray(frame, float)
    columns, rows = panel_axes(4.0, 6, nz)
    cells = to_pixels(generate(net, panel_latents(columns, rows, nz), 64))
    for k in (0, 4, len(cells) - 1):
        y, x = 28 + k // 6 * 64, k % 6 * 64
        cell = seen[y:y + 64, x:x + 64]
        assert psnr(cell, cells[k]) > max(30, 5 + psnr(cell, cells[k - 1]))
    assert seen[:24].min() < 100 and seen[:24, -100:].min() > 250      # the epoch, at the left


def test_large_movies_are_compressed_more(tmp_path, monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (9, 64, 64, 3), np.uint8)
    noise, path = [Image.fromarray(picture) for picture in noise], tmp_path / "noise.webp"
    movies.save_movie(noise, [50] * 9, path)
    most = path.stat().st_size // 2
    monkeypatch.setattr(movies, "MOST_BYTES", most)
    movies.save_movie(noise, [50] * 9, path)
    assert path.stat().st_size <= most


def test_images_at_another_side_are_averaged_or_repeated():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(to_side(x, 4), x)
    assert to_side(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(to_side(to_side(x, 16), 4), x)
