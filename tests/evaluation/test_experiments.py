"""Descents, held-out images, known factors, warm against cold start."""
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


def valley(index, z):
    """Rosenbrock's valley as least squares, (1 - a)^2 / 2 + 100 (b - a^2)^2 / 2."""
    a, b = z.T
    residual = torch.stack([1 - a, 10 * (b - a**2)], 1)
    jacobian = torch.stack([torch.stack([-torch.ones_like(a), torch.zeros_like(a)], 1),
                            torch.stack([-20 * a, 10 * torch.ones_like(a)], 1)], 1)
    return (residual.square().sum(1) / 2, (jacobian.mT @ residual.unsqueeze(2)).squeeze(2),
            jacobian.mT @ jacobian)


def test_descent_never_climbs_and_evaluates_unfinished_rows_only():
    z = torch.tensor([[1.0, 1.0], [-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)  # first: the mode
    asked = []

    def local(index, part):
        asked.append(index.tolist())
        return valley(index, part)

    found, energy, *_ = refine(local, z, n_steps=100, tol=1e-12)
    assert torch.allclose(found, torch.ones_like(z), atol=1e-5)
    assert asked[0] == [0, 1, 2] and all(0 not in index for index in asked[1:])
    assert len(asked[-1]) == 1                               # one is done before the other
    energies = torch.stack([refine(valley, z, n_steps=k)[1] for k in range(12)])
    assert (energies.diff(dim=0) <= 0).all()


def test_descent_keeps_no_step_that_is_not_finite():
    def local(index, z):
        energy, grad, metric = valley(index, z)
        bad = z[:, 0] > 2
        return (torch.where(bad, math.nan, energy), torch.where(bad[:, None], math.nan, grad),
                torch.where(bad[:, None, None], math.nan, metric))

    z = torch.tensor([[3.0, 1.0], [1.9, -30.0]], dtype=torch.float64)
    found, energy, *_ = refine(local, z, n_steps=60)
    assert torch.equal(found[0], z[0]) and energy[0].isnan()
    assert torch.allclose(found[1], torch.ones(2, dtype=torch.float64), atol=0.05)


@pytest.mark.parametrize("n, k", [(6, 2), (7, 3), (24, 4), (5, 5)])
def test_folds_hold_every_image_out_once(n, k):
    parts, again = ([part.tolist() for part in holdout.folds(n, k, seed=3)] for _ in range(2))
    assert parts == again and len(parts) == k and sorted(sum(parts, [])) == list(range(n))
    assert all(n // k <= len(p) <= -(-n // k) and p == sorted(p) for p in parts)


def test_inferred_latents_are_the_modes_of_a_linear_generator(make_linear):
    model, mean, covariance = make_linear(sigma=0.5, n=1)
    net, weights = frozen(model.net), model.net.code.weight.detach()
    shift = torch.tensor([[0.0, 0.0], [0.9, -0.6], [-1.5, 0.2]])
    images = model.images + (shift @ weights.T).view(3, 3, 16, 16)
    expected = mean + shift @ (weights.T @ weights).T @ covariance / 0.25
    found = holdout.infer(net, images, model.config)
    assert ((found - expected).abs() < 0.05 * covariance.diagonal().sqrt()).all()


class Folded(LinearNet):
    """g(z) = W (z_1^2 + 0.1 z_1, z_2) + b: two modes of an image, the heavier at z_1 > 0."""

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
    config, parts = Config(**QUICK), []
    for held_out in holdout.folds(6, 2, Config.seed):
        rest, test = [j for j in range(6) if j not in held_out], images[held_out]
        parts.append(holdout.fit_fold(config, images, NAMES, held_out, "cpu", "fp32"))
        abp, pca = parts[-1]["ABP", 2], parts[-1]["PCA", 2]
        model, fit = ABP(config, images[rest], "warm"), linear.fit_pca(images[rest], 2)
        assert torch.allclose(pca.psnr, psnr(fit.reconstruct(test), test))
        assert torch.allclose(pca.log_p, fit.log_density(test))
        list(model)
        z = holdout.infer(frozen(model.net), test, config)
        assert torch.allclose(abp.psnr, psnr(model.net(z), test), rtol=1e-4)
        above = abp.log_p - log_p_of_one_mode(model, images[rest], test, z)
        assert (above > -0.5).all() and (above < 20).all()
    rows = holdout.run(config, images, NAMES, tmp_path, "cpu", "fp32", n_folds=2)
    assert [(row["model"], row["d"]) for row in rows] == list(parts[0])
    for row in rows:
        mean = torch.cat([part[row["model"], row["d"]].psnr for part in parts]).mean().item()
        assert row["heldout_psnr"] == pytest.approx(mean)
    assert rows[1]["train_psnr"] > rows[1]["heldout_psnr"] and rows[3]["train_psnr"] is None
    with Image.open(tmp_path / "holdout.png") as picture:
        assert picture.height == 3 * (16 + 2) - 2                      # held out, ABP, PCA


@pytest.mark.parametrize("n, k", [(6, 1), (6, 7), (3, 3), (4, 3)])
def test_folds_that_leave_too_few_images(n, k, images, tmp_path):
    with pytest.raises(UserError, match=f"--folds {k}: .*(choose|add)"):
        holdout.run(Config(**QUICK), images[:n], NAMES[:n], tmp_path, "cpu", "fp32", k)
    assert not list(tmp_path.iterdir())


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
    ("\xff\xfe\x00name", "is no table of numbers"), ("", "has no row or column 'a'")])
def test_invalid_table_of_factors(text, complaint, tmp_path):
    (tmp_path / "factors.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="factors.csv: .*correct it, or move it out") as error:
        factors.read(tmp_path, ["a.png", "b.png"])
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_linear_factors_of_latents_and_a_constant_one():
    z = np.random.default_rng(0).standard_normal((20, 2))
    truth = {"lion": z @ [0.6, 0.8] + 2, "turn": np.exp(3 * z[:, 0]), "same": np.ones(20)}
    lion, turn, same = factors.rows(z, truth)
    assert [lion["linear_r2"], lion["loo_r2"]] == pytest.approx([1, 1]) and turn["linear_r2"] < 0.7
    assert same["linear_r2"] is None and same["loo_r2"] is None
    assert factors.rows(np.zeros((20, 2)), truth)[0]["linear_r2"] == pytest.approx(0)


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
    assert row["loo_r2"] < row["linear_r2"]
    square = factors.rows(np.eye(6)[:, :5], {"lion": np.arange(6)})[0]
    assert square["loo_r2"] is None                          # six numbers, fitted to six images


def test_warm_and_cold_start_with_equal_network_passes_and_a_mask(images, tmp_path):
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
    *_, last = ABP(dataclasses.replace(config, start="cold", seed=2), images, "cold")
    assert float(rows[3]["psnr"]) == pytest.approx(last["psnr"], rel=1e-5)    # an ordinary run
    values = [float(r["psnr"]) for r in rows[2:]]
    assert float(mean["psnr"]) == pytest.approx(np.mean(values))
    assert float(std["psnr"]) == pytest.approx(np.std(values, ddof=1))
    mean, std = warm_cold.spread([{"start": "warm", "seed": 1, "psnr": 2.0}])
    assert mean["psnr"] == 2 and std["psnr"] is None                   # of a single seed
    assert {"warm_cold.png", "warm_cold.pdf"} <= {p.name for p in tmp_path.iterdir()}
