"""python evaluate.py: what it writes, what it refuses; the latent plane and chains against known answers."""
import csv
import json
import math
import shutil

import pytest
import torch
from conftest import LinearNet, command
from PIL import Image

import abp
from evaluation import __main__, chains, plane
from evaluation.density import Joint
from evaluation.needles import find_modes, survey
from evaluation.quadrature import log_evidence
from runs.tables import write_tables

TABLES = ("reconstruction", "nearest", "between", "likelihood", "chains", "stuck", "samplers", "latents",
          "occupancy")
FIGURES = ("posterior_maps", "chains", "latent_plane")


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A finished run of both starts."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert abp.main([*command(faces, n_epochs=12, learn_num_steps=4), f"--out={folder}"]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to spoil."""
    return shutil.copytree(trained, tmp_path / "run")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_evaluated_whole(run, capsys):
    assert __main__.main([str(run), "--n_steps", "20", "--n_shown", "2"]) == 0
    out = run / "evaluation"
    for start in ("warm", "cold"):
        for name in TABLES:
            for kind in ("csv", "md", "tex"):
                assert (out / start / f"{name}.{kind}").stat().st_size, name
        for name in FIGURES:
            with Image.open(out / start / f"{name}.png") as picture:
                assert picture.width > 300
            assert (out / start / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    summary = {row["quantity"]: row for row in rows(out / "summary.csv")}
    metrics = json.loads((run / "warm" / "metrics.json").read_text())
    assert float(summary["PSNR [dB]"]["warm start"]) == pytest.approx(metrics["psnr"], abs=1e-3)
    nearest = summary["samples: PSNR to the nearest image, mean [dB]"]
    assert float(nearest["warm start"]) == pytest.approx(metrics["sample_nearest_psnr"], abs=1e-3)
    assert float(summary["ML estimate of σ"]["cold start"]) > 0
    linear = rows(out / "linear.csv")
    assert [row["model"] for row in linear[:3]] == ["ABP, warm start", "ABP, cold start", "PCA"]
    assert float(linear[0]["train_log_p"]) == pytest.approx(
        float(summary["log p at ML σ, mean [nats]"]["warm start"]))
    assert "warm: likelihood" in capsys.readouterr().out


def test_the_ml_sigma_is_the_likeliest(run):
    config, net, z = abp.load_run(run / "warm")
    images, _ = abp.load_img_tensors(config.data, config.img_size)
    joint = Joint(net, images, 1.0)
    coarse = survey(joint)
    found = __main__.likelihood.likelihood(joint, z, [str(i) for i in range(len(z))], config.mse_sigma)
    at_ml = found.at_ml.log_p.sum()
    for other in (0.9, 1.1):
        sigma = other * found.sigma_ml
        assert log_evidence(joint, coarse, find_modes(joint, coarse, sigma, z), sigma).log_p.sum() < at_ml


def test_with_another_nz_what_needs_no_plane_is_written(faces, tmp_path, capsys):
    folder = tmp_path / "run"
    assert abp.main([*command(faces, nz=3, start="warm"), f"--out={folder}"]) == 0
    assert __main__.main([str(folder)]) == 0
    assert "nz is 3" in capsys.readouterr().out
    out = folder / "evaluation"
    assert (out / "warm" / "reconstruction.csv").exists() and (out / "linear.csv").exists()
    assert not (out / "warm" / "likelihood.csv").exists()


@pytest.mark.parametrize("experiment, table", [
    (["--experiment", "occlusion"], "occlusion.csv"),
    (["--experiment", "warm-cold", "--seeds", "2"], "warm_cold_seeds.csv"),
    (["--folds", "2"], "holdout.csv")])
def test_experiments_train_anew_with_the_options_of_the_run(run, experiment, table):
    assert __main__.main([str(run), *experiment, "--n_epochs", "2"]) == 0
    assert len(rows(run / "evaluation" / table)) >= 4


# ---- what it refuses

def refused(capsys, *args):
    assert __main__.main(list(map(str, args))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("evaluate.py: error: ")
    return error


def test_no_run_is_refused(tmp_path, capsys):
    assert "output/001" in refused(capsys)
    assert "no such folder" in refused(capsys, tmp_path / "none")
    assert "is no run folder" in refused(capsys, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "holds no trained start" in refused(capsys, tmp_path)


def test_an_unfinished_run_is_refused(run, capsys):
    checkpoint = abp.load_checkpoint(run / "cold" / "checkpoint.pt")
    torch.save(checkpoint | {"epoch": 5}, run / "cold" / "checkpoint.pt")
    assert "is unfinished, 5 of 12 epochs; go on with python abp.py --resume" in refused(capsys, run)
    shutil.rmtree(run / "cold")
    assert "cold: is missing" in refused(capsys, run)


def test_a_damaged_run_or_one_of_another_version_is_refused(run, capsys):
    path = run / "warm" / "checkpoint.pt"
    checkpoint = abp.load_checkpoint(path)
    torch.save(checkpoint | {"config": checkpoint["config"] | {"depth": 4}}, path)
    assert "another version" in refused(capsys, run)
    path.write_bytes(path.read_bytes()[:1000])
    assert "is damaged" in refused(capsys, run)
    assert not (run / "evaluation").exists()


def test_other_images_are_refused(run, faces, tmp_path, capsys):
    other = shutil.copytree(faces, tmp_path / "other")
    next(other.iterdir()).unlink()
    assert "is gone since the run began" in refused(capsys, run, "--data", other)
    assert "no such folder" in refused(capsys, run, "--data", tmp_path / "none")


def test_bad_options_are_refused(run, capsys):
    assert "--folds" in refused(capsys, run, "--folds", "1")
    assert "--folds 7" in refused(capsys, run, "--folds", "7")
    assert "occlusion" in refused(capsys, run, "--experiment", "masks")
    assert "--n_steps" in refused(capsys, run, "--nsteps", "3")


# ---- the latent plane

@pytest.fixture
def linear_net():
    layer = torch.nn.Linear(2, 768)
    layer.weight.data = 0.15 * torch.randn(768, 2, generator=torch.Generator().manual_seed(3))
    return LinearNet(layer)


def test_the_stretch_of_a_linear_generator_is_the_same_everywhere(linear_net):
    area, axis = plane.stretch(linear_net, 2.0, 6)
    weight = linear_net.code.weight.detach().double()
    assert area.shape == (6, 6) and axis.abs().max() < 2
    assert torch.allclose(area, torch.linalg.det(weight.T @ weight).sqrt().log10().expand(6, 6))


def test_the_rows_of_a_stretch_map_are_those_of_z_2():
    class Steep(LinearNet):
        def forward(self, z):
            return super().forward(z + z[:, 1:].clamp(min=0).square() * torch.tensor([0.0, 0.5]))

    area, _ = plane.stretch(Steep(torch.nn.Linear(2, 768)), 2.0, 6)
    assert (area[-1] > area[0]).all() and torch.allclose(area[:, 0], area[:, -1])


def test_a_linear_generator_has_no_tears_and_a_step_has_one(linear_net):
    calm = plane.tears(linear_net, 1.0)
    assert calm["p95"] / calm["median"] < 2
    torn = plane.tears(lambda z: linear_net(z) + 5 * (z[:, :1] > 0).float().view(-1, 1, 1, 1), 1.0)
    assert torn["greatest"] > 20 * calm["greatest"]


def test_occupancy_of_a_sample_of_the_prior_is_the_priors():
    z = 1.5 * torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    found = plane.occupancy(z, 1.5)
    assert found[0]["value"] == pytest.approx(1, abs=0.05)
    assert found[1]["value"] == pytest.approx(0.95, abs=0.01)
    assert found[2]["value"] == pytest.approx(found[2]["prior"], abs=0.01)
    assert found[4]["value"] > 0.01
    assert plane.occupancy(1.3 * z, 1.5)[4]["value"] < 1e-6


def test_nearest_images_and_high_frequencies():
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    found, place = plane.nearest(images[[2, 0]] + 0.1, images, list("abcd"))
    assert [row["nearest"] for row in found] == ["c", "a"] and place.tolist() == [2, 0]
    assert found[0]["rms"] == pytest.approx(0.1, rel=1e-3)
    assert found[0]["psnr"] == pytest.approx(10 * math.log10(4 / 0.01), abs=0.01)
    smooth = torch.linspace(-1, 1, 16).sin().expand(1, 3, 16, 16)
    wave = (torch.arange(16) * math.pi * 0.75).cos().expand(1, 3, 16, 16)      # 6 cycles of 16 pixels
    assert plane.high_frequency_power(wave) == pytest.approx(wave.square().mean().item(), rel=0.05)
    assert plane.high_frequency_power(smooth) < 0.05 * smooth.square().mean()


# ---- chains

def test_chains_of_every_sampler_agree_with_quadrature(linear_net):
    sigma, index = 0.5, torch.arange(3)
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    noise = sigma * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    joint = Joint(linear_net, (linear_net(z) + noise).detach(), 1.0)
    coarse = survey(joint)
    found = log_evidence(joint, coarse, find_modes(joint, coarse, sigma, z), sigma)
    floor = chains.floors(joint, found, sigma)
    torch.manual_seed(0)
    starts = chains.dispersed_starts(joint, index, sigma, z, 0)
    for name in chains.SAMPLERS:
        run = chains.sample(joint, index, sigma, name, starts, 100, 1500)
        for row in chains.diagnose(run, found, index, list("abc"), floor):
            assert row["mean_gap"] < 0.2 and abs(math.log(row["std_ratio"])) < 0.15, name
            assert row["rhat"] < 1.05 and row["stuck"] == 0
        assert run.energy.double().mean((0, 1)) == pytest.approx((floor + 1).tolist(), abs=0.25)
        assert chains.stuck_chains(run, found, index, list("abc"), floor) == []


def test_a_chain_that_sits_elsewhere_is_stuck_and_told_where_to_go(linear_net):
    sigma, index = 0.05, torch.arange(2)
    z = torch.zeros(2, 2)
    joint = Joint(linear_net, linear_net(z).detach(), 1.0)
    coarse = survey(joint)
    found = log_evidence(joint, coarse, find_modes(joint, coarse, sigma, z), sigma)
    starts = z.expand(chains.N_CHAINS, -1, -1).clone()
    starts[2, 1] = 2.0                                      # far off, and its steps are too small to return
    run = chains.sample(joint, index, sigma, "mala", starts, 0, 20, fixed_step=1e-5)
    (row,) = chains.stuck_chains(run, found, index, ["a", "b"], chains.floors(joint, found, sigma))
    assert (row["image"], row["chain"]) == ("b", 3) and row["nats_above"] > 100
    assert abs(row["z1_restart"]) < 0.1 and abs(row["z2_restart"]) < 0.1


# ---- tables

def test_a_table_says_the_same_in_three_formats(tmp_path):
    table = [{"name": "a_1 & b", "x": 1.23456, "n": 3}, {"name": "c", "x": None, "n": 4}]
    write_tables(tmp_path, "t", table, {"x": "x [%]"}, {"x": ".2f"})
    assert rows(tmp_path / "t.csv")[0] == {"name": "a_1 & b", "x": "1.23456", "n": "3"}
    assert (tmp_path / "t.md").read_text().splitlines() == [
        "| name | x [%] | n |", "| --- | ---: | ---: |", "| a_1 & b | 1.23 | 3 |", "| c | – | 4 |"]
    text = (tmp_path / "t.tex").read_text()
    assert r"a\_1 \& b & 1.23 & 3 \\" in text and r"x [\%]" in text and "c & -- & 4" in text
    assert r"\begin{tabular}{lrr}" in text
