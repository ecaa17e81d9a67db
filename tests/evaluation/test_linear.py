"""The linear baselines against scipy and their likelihood's maximum; reconstruction errors."""
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from evaluation import linear
from evaluation.start import reconstruction_rows, similarity
from inference.measures import psnr


def draws(n, d=2, side=3, sigma=0.2, seed=0):
    """n images of 3 x side x side values from a linear model with d latents."""
    generator = torch.Generator().manual_seed(seed)
    n_values = 3 * side * side
    weights = torch.randn(d, n_values, generator=generator, dtype=torch.float64) / 2
    noise = sigma * torch.randn(n, n_values, generator=generator, dtype=torch.float64)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (z @ weights + noise + 0.1).view(n, 3, side, side)


def likelihood(model, images):
    return model.log_density(images).sum().item()


@pytest.mark.parametrize("noise", [torch.tensor(0.3), torch.linspace(0.1, 2, 12)])
def test_density_equals_scipys(noise):
    generator = torch.Generator().manual_seed(1)
    x, mean, weights = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                        for shape in ((5, 12), (12,), (3, 12)))
    covariance = weights.T @ weights + torch.diag(noise.expand(12))
    expected = multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    assert np.allclose(linear.log_normal(x, mean, weights, noise), expected, rtol=1e-12)


def test_bits_per_dimension_of_a_uniform_density():
    log_p = 10 * math.log(1 / 2)
    assert linear.bits_per_dim(log_p, 10) == pytest.approx(math.log2(255))


def assert_maximum(model, images):
    """No small random change of the weights or the noise is likelier."""
    best, generator = likelihood(model, images), torch.Generator().manual_seed(2)
    for _ in range(20):
        noise = torch.randn(model.weights.shape, generator=generator, dtype=torch.float64)
        assert likelihood(model._replace(weights=model.weights + 0.02 * noise), images) < best
        factor = torch.randn(model.noise.shape, generator=generator, dtype=torch.float64)
        assert likelihood(model._replace(noise=model.noise * (0.05 * factor).exp()), images) < best


@pytest.mark.parametrize("n", [12, 400])                     # fewer images than values, and more
def test_probabilistic_pca_is_a_maximum_of_the_likelihood(n):
    images = draws(n)
    model = linear.fit_pca(images, 2)
    assert_maximum(model, images)
    for factor in (0.97, 1.03):
        changed = model._replace(weights=factor * model.weights)
        assert likelihood(changed, images) < likelihood(model, images)
    if n == 400:                             # it finds the noise of the images
        assert model.noise.sqrt().item() == pytest.approx(0.2, rel=0.03)


def test_pca_reconstructs_by_orthogonal_projection():
    images = draws(12)
    model = linear.fit_pca(images, 4)
    residual = (images - model.reconstruct(images)).flatten(1)
    flat = (images - images.mean(0)).flatten(1)
    assert (residual @ model.encoder.T).abs().max() < 1e-12
    assert residual.square().sum().item() == pytest.approx(
        torch.linalg.svdvals(flat)[4:].square().sum().item())


def test_factor_analysis_is_a_maximum_and_reconstructs_by_the_posterior_mean():
    images = draws(400)
    model = linear.fit_fa(images, 2)
    assert_maximum(model, images)
    w, centred = model.weights, images.flatten(1) - model.mean
    covariance = w.T @ w + torch.diag(model.noise)
    expected = model.mean + centred @ torch.linalg.inv(covariance) @ w.T @ w
    assert torch.allclose(model.reconstruct(images).flatten(1), expected)


@pytest.mark.parametrize("fit", [linear.fit_pca, linear.fit_fa])
def test_constant_pixels_keep_the_density_finite(fit):
    images = draws(8)
    images[:, :, 0] = 1.0
    images[:, :, 1:] = images[:1, :, 1:] + 1e-9 * images[:, :, 1:]
    model = fit(images, 2)
    assert (model.noise == linear.LEAST_VARIANCE).all()
    for values in (model.log_density(images), model.reconstruct(images)):
        assert torch.isfinite(values).all()


def test_rows_of_the_table(images):
    rows = linear.rows(images[:5])
    assert [(r["model"], r["d"]) for r in rows] == [("PCA", 2), ("PCA", 4), ("FA", 2), ("FA", 4)]
    model, row = linear.fit_pca(images[:5], 2), rows[0]
    recon = model.reconstruct(images[:5])
    assert row["train_psnr"] == pytest.approx(psnr(recon, images[:5]).mean().item())
    assert row["train_log_p"] == pytest.approx(model.log_density(images[:5]).mean().item())
    assert row["train_bits"] == pytest.approx(
        -row["train_log_p"] / 768 / math.log(2) + math.log2(127.5))
    assert rows[1]["train_psnr"] > row["train_psnr"] > 0 and row["sigma"] > 0
    assert linear.rows(images[:2]) == []


def test_reconstruction_of_each_image_and_the_mean(images):
    recon = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    recon[0] = images[0]
    names = [f"{i}.png" for i in range(6)]
    rows = reconstruction_rows(recon, images, names)
    assert [r["image"] for r in rows] == [*names, "mean"]
    assert rows[0]["mse"] == 0 and rows[0]["psnr"] == 100 and rows[0]["ssim"] == pytest.approx(1)
    assert rows[1]["mse"] == pytest.approx(0.01, rel=0.2) and 0 < rows[1]["ssim"] < 1
    assert rows[1]["psnr"] == pytest.approx(10 * math.log10(4 / rows[1]["mse"]))
    for key in ("mse", "psnr", "ssim"):
        assert rows[-1][key] == pytest.approx(np.mean([r[key] for r in rows[:-1]]))
    mask = torch.ones(6, 1, 16, 16)
    mask[..., :8] = 0
    recon[..., :8] = 9.0                                     # hidden, and does not count
    masked = reconstruction_rows(recon, images, names, mask)
    assert masked[1]["mse"] == pytest.approx(0.01, rel=0.2) and masked[1]["ssim"] is None


def test_structural_similarity_equals_the_formula_of_wang_et_al(images):
    a, b = images[:1].double(), images[1:2].double()
    offset = torch.arange(11, dtype=torch.float64) - 5
    window = (-offset**2 / (2 * 1.5**2)).exp()
    window = (torch.outer(window, window) / window.sum() ** 2).view(1, 1, 11, 11)
    products = torch.cat([a, b, a * a, b * b, a * b]).view(15, 1, 16, 16)
    mean_a, mean_b, *means = torch.nn.functional.conv2d(products, window).view(5, 3, 6, 6)
    var_a, var_b = means[0] - mean_a**2, means[1] - mean_b**2
    covariance = means[2] - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ssim = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()
    assert similarity(a, b).item() == pytest.approx(ssim.item(), rel=1e-9)
