"""Modes found by descent, images held out of training, factors found in the latents, warm against cold."""
import csv
import math

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image

from abp import ABP, Config
from evaluation import holdout, linear
from evaluation.modes import refine
from options import UserError
from posterior import Posterior, frozen

QUICK = SMALL | {"n_epochs": 3}
NAMES = [f"face_{i}.png" for i in range(6)]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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
    z = torch.tensor([[1.0, 1.0], [-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)   # the first is the mode
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

@pytest.mark.parametrize("n, k", [(6, 2), (7, 3), (24, 1), (5, 5)])
def test_folds_hold_every_image_out_once(n, k):
    parts = holdout.folds(n, k, seed=3)
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert all(1 <= len(p) <= k and p.tolist() == sorted(p.tolist()) for p in parts)
    assert [p.tolist() for p in parts] == [p.tolist() for p in holdout.folds(n, k, seed=3)]
    if n == 24:
        assert parts != holdout.folds(n, k, seed=4)


def test_latents_of_unseen_images_are_at_the_mode_of_their_posterior(make_linear):
    """Of a linear generator, whose posterior has one mode; the images differ and must not be mixed up."""
    model, mean, covariance = make_linear(sigma=0.5, n=1)
    net, weights = frozen(model.net), model.net.code.weight.detach()
    shift = torch.tensor([[0.0, 0.0], [0.9, -0.6], [-1.5, 0.2]])
    images = model.images + (shift @ weights.T).view(3, 3, 16, 16)
    expected = mean + shift @ (weights.T @ weights).T @ covariance / 0.25
    found = holdout.infer(net, images, model.config)
    assert ((found - expected).abs() < 0.05 * covariance.diagonal().sqrt()).all()


def test_latents_of_unseen_images_are_no_worse_than_any_draw_of_the_prior(make_model):
    model = make_model(mse_sigma=0.3)
    for _ in model.train():
        pass
    posterior = model.posterior(model.images)
    z = holdout.infer(frozen(model.net), model.images, model.config)
    draws = torch.randn(200, 2)
    assert all((posterior.energy(z) <= posterior.energy(draw.expand(6, 2))).all() for draw in draws)


def test_leave_k_out_measures_every_image_with_models_that_never_saw_it(images, tmp_path):
    config = Config(**QUICK)
    summary = holdout.run(config, images, NAMES, tmp_path, "cpu", "fp32", k=3)
    rows = table(tmp_path / "holdout.csv")
    assert [r["image"] for r in rows] == [*NAMES, "mean"] and [r["fold"] for r in rows].count("1") == 3
    for i, held_out in enumerate(holdout.folds(6, 3, config.seed), 1):
        rest = [j for j in range(6) if j not in held_out]
        expected = linear.rows(images[rest], images[held_out])[0]
        of_fold = [rows[j] for j in held_out]
        assert all(r["fold"] == str(i) for r in of_fold)
        assert np.mean([float(r["pca_psnr"]) for r in of_fold]) == pytest.approx(expected["heldout_psnr"])
        model = ABP(config, images[rest], "warm")
        for _ in model.train():
            pass
        z = holdout.infer(frozen(model.net), images[held_out], config)
        mse = (model.net(z) - images[held_out]).square().mean((1, 2, 3))
        assert mse.tolist() == pytest.approx([float(r["abp_mse"]) for r in of_fold], rel=1e-3)
    assert [(r["model"], r["d"]) for r in summary] == [
        ("ABP", 2), ("PCA", 2), ("FA", 2), (holdout.NEAREST, None)]
    for row, key in zip(summary, ("abp", "pca", "fa"), strict=False):
        assert row["heldout_psnr"] == pytest.approx(float(rows[-1][f"{key}_psnr"]))
    assert summary[1]["train_psnr"] > summary[1]["heldout_psnr"] and summary[3]["train_psnr"] is None
    assert table(tmp_path / "holdout_summary.csv")[0]["model"] == "ABP"
    with Image.open(tmp_path / "holdout.png") as picture:
        assert picture.height == 3 * (16 + 2) - 2                      # held out, ABP, PCA
    assert "ABP: PSNR" in (tmp_path / "holdout.md").read_text()


@pytest.mark.parametrize("n, k", [(6, 0), (6, 4), (3, 1)])
def test_leave_k_out_refuses_to_train_on_too_few(n, k, images, tmp_path):
    with pytest.raises(UserError, match="choose another k or add images"):
        holdout.run(Config(**QUICK), images[:n], NAMES[:n], tmp_path, "cpu", "fp32", k)
    assert not list(tmp_path.iterdir())
