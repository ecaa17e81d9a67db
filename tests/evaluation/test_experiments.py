"""Descents, images held out of training, factors found in the latents, warm against cold."""
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, LinearNet
from PIL import Image

from abp import ABP, Config
from evaluation import factors, holdout, linear, warm_cold
from evaluation.modes import refine
from inference.measures import psnr
from inference.posterior import Posterior, frozen
from runs.options import UserError
from runs.tables import read_csv

QUICK = SMALL | {"n_epochs": 3}
NAMES = [f"face_{i}.png" for i in range(6)]


# ---- modes

def test_descent_from_anywhere_ends_at_the_mode_of_a_linear_generator(make_linear):
    model, mean, covariance = make_linear(sigma=0.5, n=1)
    posterior = model.posterior(model.images)
    z = 3 * torch.randn(10, 2)

    def local(index, part):
        return Posterior(posterior.net, model.images.expand(len(part), -1, -1, -1), 0.5).local(part)

    found, energy, grad, metric = refine(local, z, tol=1e-6)
    std = covariance.diagonal().sqrt()
    assert ((found - mean).abs() < 0.01 * std).all()
    assert torch.allclose(metric, torch.linalg.inv(covariance).expand(10, 2, 2), rtol=1e-3)
    assert torch.allclose(energy, posterior.energy(mean.unsqueeze(0)).expand(10), atol=1e-3)
    assert (grad.abs() * std < 0.01).all()


def valley(index, z):
    """Rosenbrock's valley as least squares, (1 - a)^2 / 2 + 100 (b - a^2)^2 / 2."""
    a, b = z.T
    residual = torch.stack([1 - a, 10 * (b - a**2)], 1)
    jacobian = torch.stack([torch.stack([-torch.ones_like(a), torch.zeros_like(a)], 1),
                            torch.stack([-20 * a, 10 * torch.ones_like(a)], 1)], 1)
    return (residual.square().sum(1) / 2, (jacobian.mT @ residual.unsqueeze(2)).squeeze(2),
            jacobian.mT @ jacobian)


def test_descent_never_climbs_and_only_evaluates_rows_that_are_not_done():
    z = torch.tensor([[1.0, 1.0], [-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)  # a mode
    asked, energies = [], []

    def local(index, part):
        asked.append(index.tolist())
        return valley(index, part)

    found, energy, *_ = refine(local, z, n_steps=100, tol=1e-12)
    assert torch.allclose(found, torch.ones_like(z), atol=1e-5)
    assert asked[0] == [0, 1, 2] and all(0 not in index for index in asked[1:])
    assert len(asked[-1]) == 1                               # one is done before the other
    for n_steps in range(12):
        energies.append(refine(valley, z, n_steps=n_steps)[1])
    assert (torch.stack(energies).diff(dim=0) <= 0).all()
    assert torch.equal(z[1], torch.tensor([-1.2, 1.0], dtype=torch.float64))       # z is untouched


def test_descent_leaves_rows_that_are_not_finite_and_never_goes_there():
    def local(index, z):
        energy, grad, metric = valley(index, z)
        bad = z[:, 0] > 2
        return (torch.where(bad, math.nan, energy), torch.where(bad[:, None], math.nan, grad),
                torch.where(bad[:, None, None], math.nan, metric))

    z = torch.tensor([[3.0, 1.0], [1.9, -30.0]], dtype=torch.float64)
    found, energy, *_ = refine(local, z, n_steps=60)
    assert torch.equal(found[0], z[0]) and energy[0].isnan()
    assert torch.allclose(found[1], torch.ones(2, dtype=torch.float64), atol=0.05)


# ---- held-out images

@pytest.mark.parametrize("n, k", [(6, 2), (7, 3), (24, 4), (5, 5)])
def test_folds_hold_every_image_out_once(n, k):
    parts = holdout.folds(n, k, seed=3)
    assert len(parts) == k
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert all(n // k <= len(p) <= -(-n // k) and p.tolist() == sorted(p.tolist()) for p in parts)
    assert [p.tolist() for p in parts] == [p.tolist() for p in holdout.folds(n, k, seed=3)]
    if n == 24:
        assert [p.tolist() for p in parts] != [p.tolist() for p in holdout.folds(n, k, seed=4)]


def test_inferred_latents_are_the_modes_of_a_linear_generator(make_linear):
    model, mean, covariance = make_linear(sigma=0.5, n=1)
    net, weights = frozen(model.net), model.net.code.weight.detach()
    shift = torch.tensor([[0.0, 0.0], [0.9, -0.6], [-1.5, 0.2]])
    images = model.images + (shift @ weights.T).view(3, 3, 16, 16)
    expected = mean + shift @ (weights.T @ weights).T @ covariance / 0.25
    found = holdout.infer(net, images, model.config)
    assert ((found - expected).abs() < 0.05 * covariance.diagonal().sqrt()).all()


class Folded(LinearNet):
    """g(z) = W (z_1^2 + 0.1 z_1, z_2) + b: two latents of an image, the prior prefers z_1 > 0."""

    def forward(self, z):
        return super().forward(torch.stack([z[:, 0].square() + 0.1 * z[:, 0], z[:, 1]], 1))


def test_inferred_latents_are_the_lowest_of_several_modes(make_linear):
    model, *_ = make_linear(sigma=0.5, n=1)
    net = frozen(Folded(model.net.code))
    z = torch.cartesian_prod(torch.linspace(0.6, 1.4, 5), torch.linspace(-1, 1, 5))
    found = holdout.infer(net, net(z).detach(), model.config)
    assert torch.allclose(found, z, atol=0.05)


def log_p_of_one_mode(model, train, images, z):
    """Laplace's approximation at the mode z, with the sigma of the training residuals."""
    sigma = (model.net(model.z) - train).square().mean().sqrt().item()
    posterior = Posterior(frozen(model.net), images, sigma)
    energy, _, metric = posterior.local(z)
    n_values = images[0].numel()
    log_noise = n_values / 2 * math.log(2 * math.pi * sigma**2)
    return (-energy - torch.logdet(metric) / 2 - log_noise).double()


def test_held_out_images_are_measured_by_models_without_them(images, tmp_path):
    config = Config(**QUICK)
    summary = holdout.run(config, images, NAMES, tmp_path, "cpu", "fp32", n_folds=2)
    rows = read_csv(tmp_path / "holdout.csv")
    assert [r["image"] for r in rows] == [*NAMES, "mean"]
    assert [r["fold"] for r in rows].count("1") == 3
    for i, held_out in enumerate(holdout.folds(6, 2, config.seed), 1):
        rest = [j for j in range(6) if j not in held_out]
        pca = linear.fit_pca(images[rest], 2)
        of_fold = [rows[j] for j in held_out]
        assert all(r["fold"] == str(i) for r in of_fold)
        quality = psnr(pca.reconstruct(images[held_out]), images[held_out])
        assert [float(r["pca_psnr"]) for r in of_fold] == pytest.approx(quality.tolist())
        model = ABP(config, images[rest], "warm")
        list(model)
        z = holdout.infer(frozen(model.net), images[held_out], config)
        mse = (model.net(z) - images[held_out]).square().mean((1, 2, 3))
        assert mse.tolist() == pytest.approx([float(r["abp_mse"]) for r in of_fold], rel=1e-3)
        log_p = pca.log_density(images[held_out])
        assert [float(r["pca_log_p"]) for r in of_fold] == pytest.approx(log_p.tolist())
        laplace = log_p_of_one_mode(model, images[rest], images[held_out], z)
        assert ([float(r["abp_log_p"]) for r in of_fold] > laplace.numpy() - 0.5).all()
        assert ([float(r["abp_log_p"]) for r in of_fold] < laplace.numpy() + 20).all()
    assert [(r["model"], r["d"]) for r in summary] == [
        ("ABP", 2), ("PCA", 2), ("FA", 2), (holdout.NEAREST, None)]
    assert summary[0]["heldout_psnr"] == pytest.approx(float(rows[-1]["abp_psnr"]))
    assert summary[1]["train_psnr"] > summary[1]["heldout_psnr"]
    assert summary[3]["train_psnr"] is None
    with Image.open(tmp_path / "holdout.png") as picture:
        assert picture.height == 3 * (16 + 2) - 2                      # held out, ABP, PCA
    assert "ABP: PSNR" in (tmp_path / "holdout.md").read_text()


@pytest.mark.parametrize("n, k", [(6, 1), (6, 7), (3, 3), (4, 3)])
def test_leave_k_out_refuses_to_train_on_too_few(n, k, images, tmp_path):
    with pytest.raises(UserError, match=f"--folds {k}: .*(choose|add)"):
        holdout.run(Config(**QUICK), images[:n], NAMES[:n], tmp_path, "cpu", "fp32", k)
    assert not list(tmp_path.iterdir())


# ---- known factors

def test_factors_are_aligned_by_file_name(tmp_path):
    assert factors.read(tmp_path, ["a.png"]) is None
    (tmp_path / "factors.csv").write_text(
        "name,turn,coat,lion\nlion,-1,0,0.25\nother,9,9,9\nb.c,0.5,0,1\n")
    found = factors.read(tmp_path, ["b.c.jpg", "lion.png"])
    assert found["lion"].tolist() == [1, 0.25] and found["turn"].tolist() == [0.5, -1]
    of_drawn = factors.read(ROOT / "data/drawn", ["face_02.png", "face_01.png"])
    assert of_drawn["turn"].tolist() == [-0.774, -0.919]


@pytest.mark.parametrize("text, complaint", [
    ("name,lion,turn\na,0,0\n", "has no row or column 'b'"),
    ("name,lion\na,0\nb,1\n", "has no row or column 'turn'"),
    ("name,lion,turn\na,0,0\nb,1\n", "turn must be a finite number"),
    ("name,lion,turn\na,0,0\nb,tiger,1\n", "is no table of numbers"),
    ("name,lion,turn\na,0,0\nb,inf,1\n", "lion must be a finite number"),
    ("", "has no row or column 'a'")])
def test_invalid_table_of_factors(text, complaint, tmp_path):
    (tmp_path / "factors.csv").write_text(text)
    with pytest.raises(UserError, match="factors.csv: .*mend it, or take it out") as error:
        factors.read(tmp_path, ["a.png", "b.png"])
    assert complaint in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "factors.csv").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UserError, match="is no table of numbers"):
        factors.read(tmp_path, ["a.png", "b.png"])


def test_factors_of_rotated_latents():
    generator = np.random.default_rng(0)
    plane = generator.standard_normal((20, 2))
    truth = {"lion": plane[:, 0], "turn": 3 * plane[:, 1] + 1}
    angle = math.radians(50)
    rotation = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    z = plane / plane.std(0) @ rotation + 2
    lion, turn, both = factors.rows(z, truth)
    for row in (lion, turn):
        assert [row[k] for k in ("linear_r2", "loo_r2", "isotonic_r2")] == pytest.approx([1, 1, 1])
    assert both["procrustes"] == pytest.approx(0, abs=1e-12) and both["factor"] == "lion and turn"
    bent = factors.rows(z, truth | {"lion": np.exp(3 * plane[:, 0])})[0]
    assert bent["linear_r2"] < 0.7
    along = factors.rows(plane[:, :1], {"lion": np.exp(3 * plane[:, 0])})[0]
    assert along["isotonic_r2"] == pytest.approx(1) and along["linear_r2"] < 0.7


def test_leave_one_out_r2_equals_refitting():
    generator = np.random.default_rng(1)
    z, lion = generator.standard_normal((12, 2)), generator.standard_normal(12)
    missed = []
    for i in range(12):
        keep = np.arange(12) != i
        design = np.column_stack([np.ones(11), z[keep]])
        missed.append(lion[i] - np.linalg.lstsq(design, lion[keep], rcond=None)[0] @ [1, *z[i]])
    row, total = factors.rows(z, {"lion": lion})[0], np.square(lion - lion.mean()).sum()
    assert row["loo_r2"] == pytest.approx(1 - np.square(missed).sum() / total)
    assert row["loo_r2"] < row["linear_r2"] <= row["isotonic_r2"]


@pytest.mark.parametrize("nz", [1, 5])
def test_factors_of_latents_of_any_dimension(nz):
    z = torch.randn(6, nz, generator=torch.Generator().manual_seed(0))
    truth = {"lion": np.linspace(0, 1, 6), "turn": np.array([-1, 1, 0, 0.5, -0.5, 0.2])}
    rows = factors.rows(z, truth)
    assert 0 <= rows[-1]["procrustes"] <= 1 and set(rows[0]) == set(factors.HEADS)
    assert (rows[0]["loo_r2"] is None) == (nz == 5)          # six numbers, fitted to six images


def test_constant_factor_or_latents():
    z = np.random.default_rng(0).standard_normal((6, 2))
    rows = factors.rows(z, {"lion": np.ones(6), "turn": np.linspace(-1, 1, 6)})
    assert rows[0]["linear_r2"] is None and rows[1]["linear_r2"] > 0
    assert rows[2]["procrustes"] is None
    rows = factors.rows(np.zeros((6, 2)), {"lion": np.arange(6), "turn": np.arange(6)})
    assert rows[0]["linear_r2"] == pytest.approx(0) and rows[2]["procrustes"] is None


# ---- warm against cold

def test_warm_and_cold_use_equal_network_passes_and_the_mask(images, tmp_path):
    config = Config(**SMALL | {"n_epochs": 20, "mask": "pepper:0.5"})
    warm_cold.run(config, images, NAMES, tmp_path, "cpu", "fp32", n_seeds=2)
    rows = read_csv(tmp_path / "warm_cold_seeds.csv")
    assert [r["start"] + r["seed"] for r in rows] == [
        f"{start}{seed}" for start in ("warm", "cold") for seed in (1, 2, "mean", "std")]
    mean, std = rows[6:]
    rows = rows[:2] + rows[4:6]
    one_epoch = {}
    for start in ("warm", "cold"):
        model = ABP(config, images, start)
        one_epoch[start] = next(iter(model))["passes"]
    budget = 20 * one_epoch["cold"]
    for row in rows:
        spent = float(row["passes"])
        assert budget - one_epoch[row["start"]] < spent <= budget + 1e-9
        assert spent == pytest.approx(int(row["epochs"]) * one_epoch[row["start"]])
    assert [r["epochs"] for r in rows] == [str(int(budget / one_epoch["warm"]))] * 2 + ["20"] * 2
    model = ABP(dataclasses.replace(config, start="cold", seed=2), images, "cold")
    list(model)                                  # the cold rows are those of an ordinary run
    assert float(rows[3]["psnr"]) == pytest.approx(model.history[-1]["psnr"], rel=1e-5)
    values = [float(r["psnr"]) for r in rows[2:]]
    assert float(mean["psnr"]) == pytest.approx(np.mean(values))
    assert float(std["psnr"]) == pytest.approx(np.std(values, ddof=1))
    mean, std = warm_cold.spread([{"start": "warm", "seed": 1, "psnr": 2.0}])
    assert mean["psnr"] == 2 and std["psnr"] is None                   # of a single seed
    assert {"warm_cold.png", "warm_cold.pdf"} <= {p.name for p in tmp_path.iterdir()}
