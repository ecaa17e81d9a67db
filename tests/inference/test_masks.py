"""Masks, and training, measures and pictures of incomplete images: hidden pixels change nothing."""
import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import PER_START, SMALL, command, names, refusal
from PIL import Image

import utils
from abp import ABP, Config, load_run, main
from inference import measures
from inference.masks import halvings, hidden_error, make_mask, parse_mask, visible_fraction
from inference.posterior import Posterior, squared_distances
from runs import files
from runs.options import UserError
from runs.tables import read_csv

SEEN = make_mask("pepper:0.6", 6, 16, seed=5)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_pepper_hides_random_pixels_of_each_image(fraction):
    mask = make_mask(f"pepper:{fraction}", 40, 32, seed=1)
    assert mask.shape == (40, 1, 32, 32) and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0, 1}
    hidden, std = 1 - mask, (fraction * (1 - fraction) / 40) ** 0.5
    assert hidden.mean() == pytest.approx(fraction, abs=0.01)
    assert (hidden.mean((1, 2, 3)) - fraction).abs().max() < 0.06
    assert hidden.mean(0).std() == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize("side", [1, 5, 15])
def test_block_hides_one_square_of_each_image(side):
    hidden = 1 - make_mask(f"block:{side}", 400, 16, seed=1)[:, 0]
    rows, columns = (hidden.amax(dim) for dim in (2, 1))
    assert torch.equal(hidden, rows[:, :, None] * columns[:, None, :])
    assert (rows.sum(1) == side).all() and (columns.sum(1) == side).all()
    places = torch.stack([rows.argmax(1), columns.argmax(1)], 1)
    assert (rows.diff(dim=1).clamp(min=0).sum(1) <= 1).all()                # in one piece
    assert places.min() == 0 and places.max() == 16 - side
    assert not torch.equal(places[:, 0], places[:, 1])


def test_white_pixels_of_a_file_are_visible(tmp_path):
    grey = np.zeros((20, 40), np.uint8)
    grey[:10, 10:30], grey[10:, 10:30] = 128, 127      # upper and lower half of the centre square
    for k, image in enumerate((Image.fromarray(grey), Image.fromarray(grey).convert("1", dither=0),
                               Image.fromarray(grey).convert("RGB").resize((80, 40), 0))):
        image.save(tmp_path / f"{k}.png")
        mask = make_mask(str(tmp_path / f"{k}.png"), 3, 16, seed=1)
        assert mask.shape == (3, 1, 16, 16)
        assert (mask[:, :, :8] == 1).all() and (mask[:, :, 8:] == 0).all()


@pytest.mark.parametrize("text", ["pepper:0.5", "block:4"])
def test_masks_depend_on_their_seed_only(text):
    state = torch.get_rng_state()
    first = make_mask(text, 6, 16, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, make_mask(text, 6, 16, seed=3))
    assert not torch.equal(first, make_mask(text, 6, 16, seed=4))


@pytest.mark.parametrize("fraction, times", [(1.0, 0), (0.9, 0), (0.5, 1), (0.3, 2), (0.1, 3)])
def test_halvings_of_the_visible_fraction(fraction, times):
    mask = (torch.arange(1600) < 1600 * fraction).float().view(1, 1, 40, 40)
    assert halvings(mask) == times and visible_fraction(mask) == pytest.approx(fraction)
    assert halvings(None) == 0 and visible_fraction(None) == 1


def test_fewer_visible_pixels_smooth_the_generator_and_lower_sigma_start(images, tmp_path):
    config = Config(**SMALL | {"mask": "pepper:0.9", "img_size": 32, "sigma_start": 20.0,
                               "mse_sigma": 1.0})
    model = ABP(config, torch.nn.functional.interpolate(images, 32))
    assert model.smooth == 3 and isinstance(model.net.deconv[4], torch.nn.Conv2d)
    visible = model.mask.mean().item()
    assert next(iter(model))["sigma"] == pytest.approx(20 * visible**0.5)
    assert 0.0625 < visible < 0.16
    other = ABP(dataclasses.replace(config, n_epochs=1), model.images)
    files.save_model(model, tmp_path / "checkpoint.pt")
    files.restore(other, tmp_path / "checkpoint.pt", {"n_epochs"})
    assert torch.equal(other.net(model.z), model.net(model.z))


@pytest.mark.parametrize("text, words", [
    ("pepper:2", "from 0 to below 1"), ("pepper:1", "from 0 to below 1"),
    ("pepper:-0.1", "pepper:P"), ("pepper", "pepper:P"), ("pepper:nan", "pepper:P"),
    ("pepper:half", "pepper:P"), ("block:16", "1 to 15 pixels"), ("block:0", "block:K"),
    ("block:2.5", "block:K"), ("block", "block:K"), ("", "is empty; give none")])
def test_invalid_mask_texts(text, words):
    with pytest.raises(UserError, match=f"^--mask[^\n]*{words}[^\n]*$"):
        parse_mask(text, 16)


@pytest.mark.parametrize("text, words", [
    ("black.png", "visible pixels white"), ("text.png", "cannot be read as an image"),
    (".", "no such file"), ("peper:0.5", "no such file; give none, pepper:P"),
    ("pepper:0.99999", "a smaller fraction"), ("pepper:2", "from 0 to below 1")])
def test_invalid_masks_leave_no_run_folder(capsys, monkeypatch, faces, tmp_path, text, words):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("black.png")
    (tmp_path / "text.png").write_text("text")
    line = refusal(capsys, *command(faces, "--out=run", mask=text))
    assert f"--mask {text}: " in line and words in line
    assert names(tmp_path) == {"black.png", "text.png"}


def test_a_mask_restricts_energy_gradient_and_metric_to_visible_pixels(make_linear):
    """All three are known for a linear generator without the rows of its hidden pixels."""
    model, _, _ = make_linear(0.7, n=6, prior_sigma=2.0)
    layer, z = model.net.code, torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    x = model.images + torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    posterior = model.posterior(x, 0.7, SEEN)
    energy, grad, metric = posterior.local(z)
    for i, seen in enumerate(SEEN.expand(6, 3, 16, 16).flatten(1).bool()):
        weight, rest = layer.weight[seen], x[i].flatten()[seen] - layer.bias[seen]
        error = weight @ z[i] - rest
        expected = error.square().sum() / (2 * 0.7**2) + z[i].square().sum() / (2 * 2.0**2)
        assert energy[i] == pytest.approx(expected.item(), rel=1e-5)
        assert torch.allclose(grad[i], weight.T @ error / 0.7**2 + z[i] / 2.0**2, rtol=1e-4,
                              atol=1e-3)
        assert torch.allclose(metric[i], weight.T @ weight / 0.7**2 + torch.eye(2) / 2.0**2,
                              rtol=1e-4)
    assert torch.allclose(posterior.energy(z), energy, rtol=1e-6)
    assert torch.equal(posterior.of(torch.tensor([4, 4, 1])).energy(z[[4, 4, 1]]),
                       energy[[4, 4, 1]])


@pytest.mark.parametrize("options", [{}, {"langevin_step_size": 0.3, "langevin_num_steps": 60}])
def test_chains_sample_the_posterior_given_visible_pixels(make_linear, options):
    """A tenth of the pixels gives a wider posterior with another mean."""
    model, _, _ = make_linear(2.0, n=3000, **{"langevin_num_steps": 20} | options)
    seen = make_mask("pepper:0.9", 1, 16, seed=2)
    mask = seen.expand(3000, -1, -1, -1)
    rows = seen.expand(1, 3, 16, 16).flatten().bool()
    weight, bias = model.net.code.weight.detach()[rows], model.net.code.bias.detach()[rows]
    covariance = torch.linalg.inv(weight.T @ weight / 2.0**2 + torch.eye(2))
    mean = covariance @ weight.T @ (model.images[0].flatten()[rows] - bias) / 2.0**2
    torch.manual_seed(0)
    z = model.sample_langevin(model.z, model.images, 2.0, mask).z
    std = covariance.diagonal().sqrt()
    assert ((z.mean(0) - mean) / std).abs().max() < 0.1
    assert torch.allclose(torch.cov(z.T) / std.outer(std), covariance / std.outer(std), atol=0.12)
    chosen = model.posterior(model.images, 2.0, mask).resample(torch.randn(4000, 2))
    assert ((chosen.mean(0) - mean) / std).abs().max() < 0.15
    assert torch.allclose(torch.cov(chosen.T) / std.outer(std), covariance / std.outer(std),
                          atol=0.15)


def test_distances_of_visible_pixels():
    torch.manual_seed(0)
    a, b = torch.rand(6, 3, 16, 16), torch.rand(9, 3, 16, 16)
    expected = ((a[:, None] - b[None]).square() * SEEN[:, None]).sum((2, 3, 4))
    assert torch.allclose(squared_distances(a, b, SEEN).float(), expected, rtol=1e-4)
    assert (squared_distances(a, a, SEEN).diagonal() >= 0).all()


def test_the_global_move_ignores_hidden_pixels(images, make_model):
    net = make_model().net
    draws, current = torch.randn(50, 2), torch.randn(6, 2)

    def chosen(x, mask, now):
        torch.manual_seed(0)
        return Posterior(net, x, 3.0, mask=mask).resample(draws, now)

    other = torch.where(SEEN == 1, images, torch.rand(6, 3, 16, 16))
    for now in (None, current):
        assert torch.equal(chosen(images, SEEN, now), chosen(other, SEEN, now))
        assert torch.equal(chosen(images, torch.ones_like(SEEN), now), chosen(images, None, now))


def trained(config, images, start="warm"):
    model = ABP(config, images, start, precision=config.precision)
    list(model)
    return model


@pytest.mark.parametrize("start, mask, options", [
    ("warm", "pepper:0.5", {}), ("cold", "block:6", {}),
    ("warm", "block:6", {"sampler": "langevin"}),
    ("warm", "pepper:0.5", {"batch_size": 4, "precision": "bf16"}),
    ("cold", "pepper:0.5", {"batch_size": 4, "precision": "bf16"})])
def test_hidden_pixels_change_nothing_in_training(images, start, options, mask):
    config = Config(**SMALL | {"mask": mask} | options)
    seen = make_mask(mask, 6, 16, config.seed)
    other = torch.where(seen == 1, images, torch.rand(6, 3, 16, 16) * 2 - 1)
    assert not torch.equal(images, other)
    one, two = trained(config, images, start), trained(config, other, start)
    rows = [[r | {"seconds": 0} for r in model.history] for model in (one, two)]
    assert rows[0] == rows[1] and torch.equal(one.z, two.z) and torch.equal(one.step, two.step)
    for a, b in zip(one.net.parameters(), two.net.parameters(), strict=True):
        assert torch.equal(a, b)
    whole = trained(dataclasses.replace(config, mask="none"), images, start)
    assert not torch.equal(one.z, whole.z)


def test_a_mask_that_hides_nothing_is_none(tmp_path):
    Image.new("L", (9, 9), 255).save(tmp_path / "white.png")
    for text in ("none", "pepper:0", "pepper:0.0", str(tmp_path / "white.png")):
        assert make_mask(text, 2, 16, seed=1) is None


@pytest.mark.parametrize("mask", ["none", "block:7"])
def test_the_log_and_the_metrics_are_of_visible_pixels(make_model, mask):
    """In float32, at the latents of the epoch."""
    model = make_model(mask=mask, mse_sigma=2.0, n_epochs=3)
    for row in model:
        error = (model.net(model.z) - model.images).detach()
        seen = torch.ones_like(error) if model.mask is None else model.mask.expand_as(error)
        seen = seen.bool()
        mse = torch.stack([e[s].square().mean() for e, s in zip(error, seen, strict=True)])
        loss = error[seen].square().sum().item() / 6 / (2 * 2.0**2)
        assert row["mse"] == pytest.approx(mse.mean().item(), rel=1e-4)
        assert row["psnr"] == pytest.approx((10 * torch.log10(4 / mse)).mean().item(), abs=1e-3)
        assert row["loss"] == pytest.approx(loss, rel=1e-4)
        assert row["z_std_1"] == pytest.approx(model.z[:, 0].std(correction=0).item(), rel=1e-4)
    samples = measures.sample_images(model.net, model.config)
    m = measures.measure(model.net, model.z, model.images, samples, model.config, model.mask)
    assert m["psnr"] == pytest.approx(row["psnr"]) and ("hidden_mae" in m) == (mask != "none")
    if mask != "none":
        relative = error[~seen].abs().sum() / (model.images[~seen] + 1).sum()
        assert m["hidden_mae"] == pytest.approx(127.5 * error[~seen].abs().mean().item(), rel=1e-4)
        assert m["hidden_relative"] == pytest.approx(relative.item(), rel=1e-4)
        whole = measures.measure(model.net, model.z, model.images, samples, model.config)
        assert m["sample_nearest_psnr"] == whole["sample_nearest_psnr"]


@pytest.fixture(scope="module")
def masked(faces, tmp_path_factory):
    """A finished warm run with a mask from a file."""
    folder = tmp_path_factory.mktemp("masked")
    Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, 0)).save(folder / "right.png")
    assert main(command(faces, f"--out={folder / 'run'}", start="warm",
                        mask=folder / "right.png")) == 0
    return folder / "run"


def test_files_of_a_masked_run(masked):
    assert names(masked / "warm") == PER_START
    m = json.loads((masked / "warm" / "metrics.json").read_text())
    assert 0 < m["hidden_mae"] < 255 and 0 < m["hidden_relative"] < 2
    for table in ("metrics.md", "metrics.tex"):
        assert f"{m['hidden_mae']:.2f}" in (masked / table).read_text()
    log = read_csv(masked / "warm" / "log.csv")
    assert float(log[-1]["psnr"]) == pytest.approx(m["psnr"], abs=1e-3)


def test_recon_of_a_masked_run_has_three_rows(masked):
    """Visible pixels, reconstructions and whole images."""
    config, net, z = load_run(masked / "warm")
    x, _ = utils.load_img_tensors(config.data, 16)
    sheet = np.asarray(Image.open(masked / "warm" / "recon.png"))[:, 16:]  # without the labels
    assert sheet.shape == (3 * 18 - 2, 6 * 18 - 2, 3)
    seen, recovered, whole = (sheet[y:y + 16, :16] for y in (0, 18, 36))
    assert np.array_equal(whole, utils.to_pixels(x[0]))
    assert np.array_equal(seen[:, 8:], whole[:, 8:]) and (seen[:, :8] == 128).all()
    assert np.abs(recovered.astype(int) - utils.to_pixels(net(z[:1])[0])).max() <= 1


def test_a_masked_run_resumes_only_with_the_same_mask(capsys, masked, tmp_path):
    assert "hides other pixels" in refusal(capsys, "--resume", str(masked), "--mask", "block:4")
    moved = tmp_path / "moved.png"
    (masked.parent / "right.png").rename(moved)
    assert "no such file" in refusal(capsys, "--resume", str(masked))
    assert main(["--resume", str(masked), "--mask", str(moved)]) == 0
    moved.rename(masked.parent / "right.png")


def test_hidden_error_on_the_scale_of_a_file():
    images = torch.tensor([0.0, 51, 102, 255]).view(1, 1, 2, 2).expand(1, 3, 2, 2) / 127.5 - 1
    mask = torch.tensor([1.0, 0, 0, 1]).view(1, 1, 2, 2)
    recovered = images + torch.tensor([9.0, 10, -20, 9]).view(1, 1, 2, 2) / 127.5
    assert hidden_error(recovered, images, mask) == {
        "hidden_mae": pytest.approx(15, abs=1e-4),
        "hidden_relative": pytest.approx(30 / 153, abs=1e-6)}
