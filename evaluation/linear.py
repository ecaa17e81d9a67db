"""The linear models that a generator network generalises: I = mu + W' z + eps, z ~ N(0, I_d).

    PCA   eps ~ N(0, sigma^2 I_D)   probabilistic PCA in closed form (Tipping and Bishop 1999)
    FA    eps ~ N(0, diag(psi))     factor analysis by maximum likelihood, a noise for each value

The D = 3 S^2 values of an image, taken as continuous in [-1, 1], have the density N(mu, W'W + Psi)
in closed form. All in float64.
"""
import math
import warnings
from typing import NamedTuple

import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from inference.measures import psnr

DIMENSIONS = (2, 4, 8, 16)
# variance of rounding to multiples of 1/127.5. Without a minimum the density of a pixel that is the
# same in all images (a white margin) has no bound
LEAST_VARIANCE = (1 / 127.5) ** 2 / 12
HEADS = {"model": "model", "d": "d", "train_psnr": "PSNR [dB]",
         "train_log_p": "log p [nats]", "train_bits": "bits/dim", "sigma": "σ"}
FORMS = {"train_psnr": ".2f", "train_log_p": ".0f", "train_bits": ".3f",
         "sigma": ".4f"}


class Linear(NamedTuple):
    """A fitted linear model."""
    name: str                      # "PCA" or "FA"
    mean: torch.Tensor             # (D,), mu
    weights: torch.Tensor          # (d, D), W
    noise: torch.Tensor            # () or (D,), variance of eps: sigma^2 or psi
    encoder: torch.Tensor          # (d, D): the code of an image is encoder (I - mu) ...
    decoder: torch.Tensor          # (d, D): ... and its reconstruction mu + decoder' code

    @property
    def d(self):
        return len(self.weights)

    def reconstruct(self, images):
        """PCA: orthogonal projection; FA: mu + W' E[z | I].  (n, 3, S, S) -> the same."""
        flat = (images.double().flatten(1) - self.mean) @ self.encoder.T @ self.decoder + self.mean
        return flat.view(images.shape)

    def log_density(self, images):
        """log p(I) in nats: (n, 3, S, S) -> (n,)."""
        return log_normal(images.double().flatten(1), self.mean, self.weights, self.noise)


def log_normal(x, mean, weights, noise):
    """log N(x; mean, W'W + Psi) in nats: x (n, D), W (d, D), Psi () or (D,) -> (n,).

    With A = W Psi^-1/2, M = I + A A' and y = Psi^-1/2 (x - mean),
    (x - mean)' (W'W + Psi)^-1 (x - mean) = |y|^2 - (A y)' M^-1 (A y) (Woodbury), and
    log det(W'W + Psi) = log det M + log det Psi (matrix determinant lemma).
    """
    n_values = x.shape[1]
    scale = torch.as_tensor(noise, dtype=x.dtype).expand(n_values).rsqrt()
    y, a = (x - mean) * scale, weights * scale
    chol = torch.linalg.cholesky(torch.eye(len(a), dtype=x.dtype) + a @ a.T)
    explained = torch.linalg.solve_triangular(chol, a @ y.T, upper=False).square().sum(0)
    log_det = 2 * chol.diagonal().log().sum() - 2 * scale.log().sum()
    return -(y.square().sum(1) - explained + log_det + n_values * math.log(2 * math.pi)) / 2


def bits_per_dim(log_p, n_values):
    """Bits for each value of an image on the scale 0 .. 255, from the log density on [-1, 1].

    A unit of [-1, 1] is 127.5 steps of the scale. The density is continuous: bits may be negative.
    log_p  nats, a number or a tensor; n_values  D, the values of an image
    """
    return -log_p / (n_values * math.log(2)) + math.log2(127.5)


def fit_pca(images, d):
    """Probabilistic PCA of images (n, 3, S, S), d < n, by maximum likelihood -> Linear.

    With eigenvalues l_1 >= l_2 >= ... of the covariance (divided by n) and their axes v_k, sigma^2
    = (l_d+1 + ... + l_D) / (D - d) and W = (l_k - sigma^2)^1/2 v_k', k = 1 .. d. sigma^2 is at
    least LEAST_VARIANCE. scikit-learn's noise_variance_ differs: it averages the discarded
    eigenvalues over min(n, D) - d directions instead of D - d.
    """
    flat = images.double().flatten(1)
    n, n_values = flat.shape
    pca = PCA(svd_solver="full").fit(flat.numpy())
    axes = torch.from_numpy(pca.components_[:d])
    eigenvalues = torch.from_numpy(pca.singular_values_) ** 2 / n
    noise = (eigenvalues[d:].sum() / (n_values - d)).clamp(min=LEAST_VARIANCE)
    weights = (eigenvalues[:d] - noise).clamp(min=0).sqrt().unsqueeze(1) * axes
    return Linear("PCA", torch.from_numpy(pca.mean_), weights, noise, axes, axes)


def fit_fa(images, d):
    """Factor analysis of images (n, 3, S, S), d < n, by maximum likelihood -> Linear.

    The noise of each value is at least LEAST_VARIANCE.
    """
    flat = images.double().flatten(1)
    with warnings.catch_warnings():          # 1000 iterations come near enough to the maximum
        warnings.simplefilter("ignore", ConvergenceWarning)
        # exact: the randomised default stops early, where the likelihood falls by chance
        fit = FactorAnalysis(d, svd_method="lapack").fit(flat.numpy())
    weights = torch.from_numpy(fit.components_)
    noise = torch.from_numpy(fit.noise_variance_).clamp(min=LEAST_VARIANCE)
    scaled = weights / noise
    encoder = torch.linalg.solve(torch.eye(d, dtype=flat.dtype) + scaled @ weights.T, scaled)
    return Linear("FA", torch.from_numpy(fit.mean_), weights, noise, encoder, weights)


def fit_all(images):
    """PCA and FA of images (n, 3, S, S) with each of DIMENSIONS below n -> list of Linear."""
    return [fit(images, d) for fit in (fit_pca, fit_fa) for d in DIMENSIONS if d < len(images)]


def rows(images):
    """Rows of a table, one for each model of fit_all: reconstruction and density.

    images (n, 3, S, S) in [-1, 1]. PSNR [dB] and log p [nats] are means over the images;
    sigma is the std of the noise, for FA the root of the mean variance.
    """
    table = []
    for model in fit_all(images):
        recon = model.reconstruct(images)
        log_p = model.log_density(images).mean().item()
        table.append({
            "model": model.name, "d": model.d, "train_psnr": psnr(recon, images).mean().item(),
            "train_log_p": log_p, "train_bits": bits_per_dim(log_p, images[0].numel()),
            "sigma": model.noise.mean().sqrt().item()})
    return table
