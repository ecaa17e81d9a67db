"""The walk and the training movie: what their frames show, that they loop, that resuming loses nothing."""
import numpy as np
import pytest
import torch
from conftest import command, smooth_generator
from PIL import Image, ImageSequence

import utils
from abp import Config, load_run, main
from explorer import movies
from explorer.movies import along, is_frame, lengths, tour, walk_latents, write_walk
from inference import measures
from inference.measures import generate, panel_axes, panel_latents
from models import GenNet
from runs.options import Interrupted
from runs.recorder import Recorder


def frames(path):
    """The frames of an animation (n, h, w, 3) of 0 to 255, their durations in ms, and its loop count."""
    with Image.open(path) as movie:
        pictures = [np.asarray(frame.convert("RGB"), float) for frame in ImageSequence.Iterator(movie)]
        durations = []
        for k in range(movie.n_frames):
            movie.seek(k)
            movie.load()
            durations.append(movie.info["duration"])
        return np.stack(pictures), durations, movie.info["loop"]


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a - b).mean())


@pytest.fixture(scope="module")
def smooth():
    """A smooth generator, and five latents."""
    return smooth_generator(), torch.randn(5, 2)


# ---- the walk

def test_the_walk_is_a_closed_loop_of_the_generators_images(smooth, tmp_path):
    net, z = smooth
    path = tmp_path / "walk.webp"
    write_walk(net, z, path)
    seen, durations, loop = frames(path)
    assert seen.shape == (10 * len(z), 128, 128, 3) and loop == 0 and set(durations) == {50}
    truth = utils.to_pixels(measures.to_side(generate(net, walk_latents(net, z)), 128)).astype(float)
    assert min(psnr(a, b) for a, b in zip(seen, truth, strict=True)) > 30
    assert psnr(seen[0], truth[5]) < 25                     # which is not so of another frame
    steps = np.abs(np.diff(truth, axis=0)).mean((1, 2, 3))
    assert np.abs(truth[-1] - truth[0]).mean() < 1.5 * steps.max()
    first = path.read_bytes()
    write_walk(net, z, path)
    assert path.read_bytes() == first and path.stat().st_size < 1_500_000


def test_the_walk_passes_every_stop_in_even_steps(smooth):
    net, z = smooth
    walk = walk_latents(net, z)
    closed = torch.cat([walk, walk[:1]])
    legs = closed[1:] - closed[:-1]
    for stop in z:                                          # the stop lies between two frames
        share = (((stop - closed[:-1]) * legs).sum(1) / legs.square().sum(1)).clamp(0, 1)
        nearest = (closed[:-1] + share[:, None] * legs - stop).norm(dim=1).min()
        assert nearest < 0.5 * legs.norm(dim=1).max()
    images = generate(net, closed).flatten(1)
    even = along(z[[*tour(z), 0]], lengths(z[[*tour(z), 0]]), 51)

    def roughness(images):
        steps = (images[1:] - images[:-1]).norm(dim=1)
        return (steps.max() / steps.mean()).item()

    assert roughness(images) < roughness(generate(net, even).flatten(1))


@pytest.mark.parametrize("n, nz, n_frames", [(1, 2, 1), (2, 1, 20), (3, 5, 30), (24, 2, 240), (100, 2, 200)])
def test_walks_of_other_shapes(tmp_path, n, nz, n_frames):
    torch.manual_seed(0)
    write_walk(GenNet(nz, 16, 16, 2).requires_grad_(False), torch.randn(n, nz), tmp_path / "walk.webp")
    with Image.open(tmp_path / "walk.webp") as movie:
        assert movie.n_frames <= n_frames and movie.size == (128, 128)
        assert n > 1 or not movie.is_animated


def test_the_tour_around_a_circle_is_the_circle():
    angle = torch.rand(20, generator=torch.Generator().manual_seed(1)) * 6.28
    order = tour(torch.stack([angle.cos(), angle.sin()], 1))
    around = angle.argsort().tolist()
    k = around.index(0)
    around = around[k:] + around[:k]
    assert order in (around, around[:1] + around[:0:-1])
    assert tour(torch.zeros(0, 2)) == [] and sorted(tour(torch.zeros(4, 2))) == [0, 1, 2, 3]


# ---- the panel in training

def test_frames_come_often_at_first_and_do_not_depend_on_the_length_of_the_run():
    epochs = [epoch for epoch in range(1, 241) if is_frame(epoch)]
    assert epochs[:20] == [*range(1, 17), 18, 20, 22, 24] and epochs[-3:] == [208, 224, 240]
    assert len(epochs) == 47
    assert all(sum(is_frame(e) for e in range(n, 2 * n)) == 8 for n in (16, 64, 100, 4096))


def recorder(make_model, folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    return Recorder(make_model(n_epochs=21, n_log=5, n_plot=100, n_stats=100, **options), folder)


class Stop:
    """In place of `run.StopAfterEpoch`: a signal that comes in a given epoch."""

    def __init__(self, model, epoch):
        self.model, self.epoch = model, epoch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def requested(self):
        return self.model.epoch == self.epoch


def test_an_interrupted_run_has_the_movie_of_an_uninterrupted_one(make_model, tmp_path, monkeypatch):
    whole = recorder(make_model, tmp_path / "whole" / "warm")
    whole.train()
    whole.finish()
    part = recorder(make_model, tmp_path / "part" / "warm")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("run.StopAfterEpoch", lambda: Stop(part.model, 7))
        part.train()
    again = recorder(make_model, tmp_path / "part" / "warm")
    again.train()
    again.finish()
    a, b = (tmp_path / name / "warm" / "training.webp" for name in ("whole", "part"))
    assert a.read_bytes() == b.read_bytes()
    seen, durations, loop = frames(a)
    assert seen.shape == (16 + 2 + 1, 28 + 6 * 64, 6 * 64, 3) and loop == 0         # to 16; 18, 20; the last
    assert durations == [120] * 18 + [3000]
    assert whole.model.epoch == 21 and torch.equal(whole.model.z, again.model.z)


def test_training_is_the_same_with_and_without_frames(make_model, tmp_path, monkeypatch):
    with_frames = recorder(make_model, tmp_path / "with" / "warm")
    with_frames.train()
    monkeypatch.setattr(movies, "save_frame", lambda *_: None)
    without = recorder(make_model, tmp_path / "without" / "warm")
    without.train()
    assert torch.equal(with_frames.model.z, without.model.z)
    for a, b in zip(with_frames.model.net.parameters(), without.model.net.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("nz, img_size", [(2, 16), (1, 64), (3, 128)])
def test_a_frame_is_the_panel_at_its_epoch(tmp_path, nz, img_size):
    config = Config(nz=nz, img_size=img_size, hidden=16, width=4, prior_sigma=2)
    net = smooth_generator(nz, img_size, 16)
    movies.save_frame(net, config, tmp_path / "frames", 12)
    with Image.open(tmp_path / "frames" / "0012.webp") as frame:
        seen = np.asarray(frame, float)
    columns, rows = panel_axes(4.0, 6, nz)
    cells = utils.to_pixels(measures.to_side(generate(net, panel_latents(columns, rows, nz)), 64))
    for k in (0, 4, len(cells) - 1):
        y, x = 28 + k // 6 * 64, k % 6 * 64
        cell = seen[y:y + 64, x:x + 64]
        assert psnr(cell, cells[k]) > max(30, 5 + psnr(cell, cells[k - 1]))
    assert seen[:24].min() < 100 and seen[:24, -100:].min() > 250          # the epoch, at the left


def test_an_extended_run_goes_on_with_its_movie(faces, tmp_path):
    out = tmp_path / "run"
    assert main(command(faces, f"--out={out}", start="warm", n_epochs=3)) == 0
    assert frames(out / "warm" / "training.webp")[0].shape[0] == 3
    assert main(["--resume", str(out), "--n_epochs", "5"]) == 0
    assert frames(out / "warm" / "training.webp")[0].shape[0] == 5
    config, net, z = load_run(out / "warm")
    last = np.asarray(Image.open(out / "warm" / "frames" / "0005.webp"), float)
    columns, rows = panel_axes(2.0, 6, 2)
    corner = utils.to_pixels(measures.to_side(generate(net, panel_latents(columns, rows, 2)[:1]), 64))[0]
    assert psnr(last[28:92, :64], corner) > 30


def test_a_movie_too_large_is_compressed_more(tmp_path, monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (9, 64, 64, 3), np.uint8)
    noise = [Image.fromarray(picture) for picture in noise]
    movies.save_movie(noise, [50] * 9, tmp_path / "fine.webp")
    fine = (tmp_path / "fine.webp").stat().st_size
    monkeypatch.setattr(movies, "MOST_BYTES", fine // 2)
    movies.save_movie(noise, [50] * 9, tmp_path / "coarse.webp")
    assert (tmp_path / "coarse.webp").stat().st_size <= fine // 2


def test_sides_are_averaged_or_repeated():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(measures.to_side(x, 4), x)
    assert measures.to_side(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(measures.to_side(measures.to_side(x, 16), 4), x)
