"""python -m evaluation: outputs and errors; the latent plane and chains against known answers."""
import json
import math
import os
import shutil

import pytest
import torch
from conftest import LinearNet, command
from PIL import Image

import abp
from evaluation import __main__, chains, plane
from evaluation.likelihood import Joint
from evaluation.modes import find_modes, survey
from evaluation.quadrature import log_evidence
from runs.tables import read_csv

TABLES = ("reconstruction", "nearest", "likelihood", "chains", "samplers", "samplers_mean",
          "latents")
FIGURES = ("posterior_maps", "chains", "latent_plane")
QUICK = ("--n_steps", "20", "--n_shown", "2")


@pytest.fixture(scope="module")
def train(faces, tmp_path_factory):
    """train(**options): the folder of a small finished run."""
    def train(**options):
        folder = tmp_path_factory.mktemp("runs") / "run"
        assert abp.main([*command(faces, **options), f"--out={folder}"]) == 0
        return folder
    return train


@pytest.fixture(scope="module")
def trained(train):
    return train(n_epochs=12, learn_num_steps=4)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run of both starts, to change."""
    return shutil.copytree(trained, tmp_path / "run")


def summary(folder):
    rows = read_csv(folder / "evaluation" / "summary.csv")
    return {row["quantity"]: row for row in rows}


def metrics(folder, start="warm"):
    return json.loads((folder / start / "metrics.json").read_text())


def test_evaluation_of_a_run(run, monkeypatch):
    opened, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: opened.append(a[0]) or load(*a, **k))
    assert __main__.main([str(run), *QUICK, "--device", "cpu"]) == 0
    assert len(opened) == 2                                  # each checkpoint once
    out = run / "evaluation"
    for start in ("warm", "cold"):
        for name in TABLES:
            for kind in ("csv", "md", "tex"):
                assert (out / start / f"{name}.{kind}").stat().st_size
        for name in FIGURES:
            with Image.open(out / start / f"{name}.png") as picture:
                assert picture.width > 300
            assert (out / start / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    found = summary(run)
    assert float(found["PSNR [dB]"]["warm start"]) == metrics(run)["psnr"]
    rows = read_csv(out / "warm" / "reconstruction.csv")
    assert float(rows[-1]["psnr"]) == pytest.approx(metrics(run)["psnr"], abs=1e-3)
    nearest = [float(row["psnr"]) for row in read_csv(out / "warm" / "nearest.csv")]
    mean = sum(nearest) / len(nearest)
    assert mean == pytest.approx(metrics(run)["sample_nearest_psnr"], abs=1e-3)
    linear = read_csv(out / "linear.csv")
    assert [row["model"] for row in linear[:3]] == ["ABP, warm start", "ABP, cold start", "PCA"]
    assert float(linear[0]["train_log_p"]) == pytest.approx(
        float(found["log p at ML σ, mean [nats]"]["warm start"]))


def test_masked_run_is_measured_on_visible_pixels(train, capsys):
    folder = train(start="warm", mask="pepper:0.5")
    assert __main__.main([str(folder), *QUICK]) == 0
    assert "of visible pixels; SSIM, PCA and FA" in capsys.readouterr().out
    rows = read_csv(folder / "evaluation" / "warm" / "reconstruction.csv")
    for key, name in (("psnr", "PSNR [dB]"), ("mse", "MSE")):
        assert float(summary(folder)[name]["warm start"]) == metrics(folder)[key]
        assert float(rows[-1][key]) == pytest.approx(metrics(folder)[key], rel=1e-4)
    assert all(row["ssim"] == "" for row in rows) and "SSIM" not in summary(folder)
    linear = read_csv(folder / "evaluation" / "linear.csv")
    assert [row["model"] for row in linear] == ["ABP, warm start, visible pixels"]


def test_run_with_three_latent_dimensions(train, capsys):
    folder = train(nz=3, start="warm")
    assert __main__.main([str(folder)]) == 0
    assert "nz is 3" in capsys.readouterr().out
    out = folder / "evaluation"
    assert (out / "warm" / "reconstruction.csv").exists() and (out / "linear.csv").exists()
    assert not (out / "warm" / "likelihood.csv").exists()


@pytest.mark.parametrize("arguments, table", [
    (["occlusion"], "occlusion.csv"), (["warm_cold", "--seeds", "2"], "warm_cold_seeds.csv"),
    (["holdout", "--folds", "2"], "holdout_summary.csv")])
def test_experiments_with_the_options_of_the_run(run, arguments, table):
    assert __main__.main([arguments[0], str(run), *arguments[1:], "--n_epochs", "2"]) == 0
    assert len(read_csv(run / "evaluation" / table)) >= 4


def test_default_run_is_the_newest_finished_one(tmp_path, monkeypatch, capsys):
    for age, name in enumerate(("002", "001")):                       # 002 finished last
        (tmp_path / "output" / name).mkdir(parents=True)
        (tmp_path / "output" / name / "metrics.md").touch()
        os.utime(tmp_path / "output" / name / "metrics.md", (1000 - age, 1000 - age))
    (tmp_path / "output" / "003").mkdir()                             # is not finished
    monkeypatch.setattr(__main__.recorder, "OUTPUT", tmp_path / "output")
    assert "002: is no run folder" in refused(capsys)
    shutil.rmtree(tmp_path / "output")
    assert "holds no finished run" in refused(capsys)


def refused(capsys, *args):
    assert __main__.main(list(map(str, args))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("python -m evaluation: error: ")
    return error


def test_folder_without_a_finished_run(run, tmp_path, capsys):
    assert "is no run folder" in refused(capsys, tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    assert "holds no trained start" in refused(capsys, tmp_path)
    (run / "cold" / "metrics.json").unlink()
    assert "is unfinished; continue with python abp.py --resume" in refused(capsys, run)
    (run / "warm" / "metrics.json").write_text(json.dumps(metrics(run) | {"epochs": 5}))
    assert "warm: is unfinished" in refused(capsys, run)


def test_run_of_another_version_or_other_images(run, faces, tmp_path, capsys):
    other = shutil.copytree(faces, tmp_path / "other")
    next(other.iterdir()).unlink()
    assert "is gone since the run began" in refused(capsys, run, "--data", other)
    path = run / "warm" / "checkpoint.pt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"config": checkpoint["config"] | {"depth": 4}}, path)
    assert "another version" in refused(capsys, run)
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize("arguments, words", [
    (["holdout", "RUN", "--folds", "1"], "--folds"),
    (["holdout", "RUN", "--folds", "7"], "--folds 7"),
    (["RUN", "--nsteps", "3"], "--n_steps"), (["RUN", "--folds", "2"], "--folds"),
    (["RUN", "--seeds", "2"], "--seeds"), (["warm_cold", "RUN", "--n_steps", "30"], "--n_steps"),
    (["occlusion", "RUN", "--seeds", "2"], "--seeds"), (["RUN", "--device", "gpu"], "--device")])
def test_invalid_options(run, arguments, words, capsys):
    assert words in refused(capsys, *(str(run) if text == "RUN" else text for text in arguments))


@pytest.fixture
def linear_net():
    layer = torch.nn.Linear(2, 768)
    layer.weight.data = 0.15 * torch.randn(768, 2, generator=torch.Generator().manual_seed(3))
    return LinearNet(layer)


class Bent(LinearNet):
    """Steep where z_2 > 0, with jumps at multiples of 1/6 of z_1."""

    def forward(self, z):
        steep = z + z[:, 1:].clamp(min=0).square() * torch.tensor([0.0, 0.5])
        return super().forward(steep) + 5 * (6 * z[:, :1]).floor().view(-1, 1, 1, 1)


def test_stretch_of_the_plane(linear_net):
    weight = linear_net.code.weight.detach().double()
    area = plane.stretch(linear_net, 2.0, 6)                # constant if the generator is linear
    assert torch.allclose(area, torch.linalg.det(weight.T @ weight).sqrt().log10().expand(6, 6))
    area = plane.stretch(Bent(linear_net.code), 2.0, 6)     # rows are those of z_2
    assert (area[-1] > area[0]).all() and torch.allclose(area[:, 0], area[:, -1])


def test_tears_are_steps_of_the_generator(linear_net):
    calm, torn = plane.tears(linear_net, 1.0), plane.tears(Bent(linear_net.code), 1.0)
    assert calm < 2 and torn > 20 * calm
    linear_net.code.weight.data.zero_()                     # a constant generator
    assert plane.tears(linear_net, 1.0) is None
    assert torch.isfinite(plane.stretch(linear_net, 2.0, 6)).all()


def test_latents_drawn_from_the_prior():
    z = 1.5 * torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    rows, found = plane.latents(z, range(5000), 1.5)
    assert found["inside"] == pytest.approx(0.95, abs=0.01) and found["ks_p"] > 0.01
    assert sum(row["inside"] == "yes" for row in rows) == pytest.approx(5000 * found["inside"])
    assert plane.latents(1.3 * z, range(5000), 1.5)[1]["ks_p"] < 1e-6


def test_nearest_images():
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    samples = torch.stack([images[2] + 0.1, images[0]])               # the last one is an image
    found, index = plane.nearest(samples, images, list("abcd"))
    assert [row["nearest"] for row in found] == ["c", "a"] and index.tolist() == [2, 0]
    assert [row["psnr"] for row in found] == pytest.approx([26.02, 100], abs=0.01)


@pytest.fixture
def chained(linear_net):
    """chained(sigma, z, noise): Joint and evidence of the images g(z) + noise."""
    def make(sigma, z, noise=0.0):
        joint = Joint(linear_net, (linear_net(z) + noise).detach(), 1.0)
        coarse = survey(joint)
        return joint, log_evidence(joint, coarse, find_modes(joint, coarse, sigma, z), sigma)
    return make


def test_chains_of_every_sampler_agree_with_quadrature(chained):
    sigma, index = 0.5, torch.arange(3)
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    noise = sigma * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    joint, found = chained(sigma, z, noise)
    floor = joint.posterior(index, sigma).energy(found.modes.z.float()).double()
    starts = chains.dispersed_starts(joint, index, sigma, z, 0)
    for name in chains.SAMPLERS:
        run = chains.sample(joint, index, sigma, name, starts, 100, 1500)
        for row in chains.diagnose(run, joint, found, sigma, index, list("abc")):
            assert row["mean_gap"] < 0.2 and abs(math.log(row["std_ratio"])) < 0.15, name
            assert row["rhat"] < 1.05 and row["stuck"] == 0
        assert run.energy.double().mean((0, 1)) == pytest.approx((floor + 1).tolist(), abs=0.25)


def test_chains_depend_on_their_seed_alone(chained):
    index, z = torch.arange(3), torch.ones(3, 2)
    joint, _ = chained(1.0, z)

    def draws(global_seed, seed):
        torch.manual_seed(global_seed)
        starts = chains.dispersed_starts(joint, index, 1.0, z, seed)
        return chains.sample(joint, index, 1.0, "mala", starts, 5, 5).draws

    assert torch.equal(draws(0, 0), draws(1, 0)) and not torch.equal(draws(1, 0), draws(1, 1))


def test_stuck_chains_are_counted(chained):
    sigma, index, z = 0.05, torch.arange(2), torch.zeros(2, 2)
    joint, found = chained(sigma, z)
    starts = z.expand(chains.N_CHAINS, -1, -1).clone()
    starts[2, 1] = 2.0                                      # far off, and its steps are too small
    run = chains.sample(joint, index, sigma, "mala", starts, 0, 20, fixed_step=1e-5)
    calm, stuck = chains.diagnose(run, joint, found, sigma, index, ["a", "b"])
    assert calm["stuck"] == 0 and stuck["stuck"] == 1
    assert abs(stuck["mode_1"]) < 0.1 and abs(stuck["mode_2"]) < 0.1
