"""log p(I) of every image at the run's sigma and at the maximum-likelihood sigma, with checks."""
import math

import torch

from evaluation.linear import bits_per_dim
from evaluation.modes import find_modes, survey
from evaluation.quadrature import importance, log_evidence, ml_sigma
from inference.posterior import Posterior, frozen, squared_distances

BATCH = 64                     # points that go through the network together
HEADS = {"image": "image", "log_p": "log p at the run's σ [nats]", "error": "error estimate",
         "modes": "modes", "behind": "log density at the run's z below the best mode [nats]",
         "log_p_ml": "log p at ML σ [nats]", "error_ml": "error estimate",
         "bits_ml": "bits/dim at ML σ",
         "sampling_gap": "importance sampling − quadrature [nats]",
         "sampling_error": "its standard error"}
FORMS = {"log_p": ".2f", "log_p_ml": ".2f", "error": ".1e", "error_ml": ".1e", "behind": ".2f",
         "bits_ml": ".3f", "sampling_gap": ".4f", "sampling_error": ".4f"}


class Joint:
    """log p(z, I_i) of a generator and its images; networks in float32, sums in float64.

    net          any module z (m, nz) -> images (m, 3, S, S), on the device to compute on
    images       (n, 3, S, S) in [-1, 1]
    prior_sigma  std of the prior of z
    search       dtype of the networks in searches and chains; values are always float32
    mask         (n, 1, S, S), 1 visible and 0 hidden; None: all pixels are visible

    Methods take and return tensors on the CPU.
    """

    def __init__(self, net, images, prior_sigma, search=torch.float32, mask=None):
        self.prior_sigma, self.search = prior_sigma, search
        self.device = next(net.parameters()).device
        self.net, self.exact = frozen(net), frozen(net).double()
        self.images = images.to(self.device)
        self.mask = None if mask is None else mask.to(self.device)
        n_values = (torch.full((len(images),), images[0].numel()) if mask is None
                    else 3 * mask.sum((1, 2, 3)))
        self.n_values = n_values.double().cpu()  # visible, of each image

    def squared_error(self, index, z):
        """|I_i - g(z)|^2 over visible pixels, for images index (m,) at z (m, 2) -> (m,) float64."""
        return self._squared_error(self.net, index, z.float())

    def rounding(self, index, z):
        """|I_i - g(z)|^2 in float32 minus that in float64 -> (m,)."""
        z = z.float()
        exact = self._squared_error(self.exact, index, z.double())
        return self.squared_error(index, z) - exact

    @torch.no_grad()
    def _squared_error(self, net, index, z):
        parts = [torch.empty(0, dtype=torch.float64)]
        for i, part in zip(*self._batches(index, z), strict=True):
            residual = net(part) - self.images[i]
            if self.mask is not None:
                residual = residual * self.mask[i]
            parts.append(residual.square().sum((1, 2, 3), dtype=torch.float64).cpu())
        return torch.cat(parts)

    def _batches(self, *values):
        return [value.to(self.device).split(BATCH) for value in values]

    def log_joint(self, squared_error, index, z, sigma):
        """log N(I_i; g(z), sigma^2 I) + log N(z; 0, prior_sigma^2 I_2) -> (m,)."""
        log_noise = self.n_values[index] / 2 * math.log(2 * math.pi * sigma**2)
        log_prior = (-z.double().square().sum(-1) / (2 * self.prior_sigma**2)
                     - math.log(2 * math.pi * self.prior_sigma**2))
        return -squared_error / (2 * sigma**2) - log_noise + log_prior

    def posterior(self, index, sigma):
        """The posterior of the images index (m,), on the device."""
        whole = Posterior(self.net, self.images, sigma, self.prior_sigma, self.search, self.mask)
        return whole.of(index.to(self.device))

    def local(self, index, z, sigma):
        """U, dU/dz and the metric of the images index (m,) at z (m, 2), as `Posterior.local`."""
        parts = [self.posterior(i, sigma).local(part)
                 for i, part in zip(*self._batches(index, z.float()), strict=True)]
        return tuple(torch.cat(values).double().cpu() for values in zip(*parts, strict=True))

    @torch.no_grad()
    def distances(self, z):
        """|I_i - g(z_k)|^2 of every image at every point z (m, 2) -> (n, m) float64."""
        parts = [squared_distances(self.images, self.net(part), self.mask).double().cpu()
                 for part in self._batches(z.float())[0]]
        return torch.cat(parts, 1)


def likelihood(joint, z, names, sigma):
    """Estimate log p(I) of every image of a trained generator by quadrature.

    z (n, 2) are the run's latents, where searches start too, and sigma is the run's. Importance
    sampling draws from the same modes: it checks the sums, not the search for modes.
    Returns the Plane of the search, the Evidence at sigma, the maximum-likelihood sigma, and rows
    of a table, one for each image.
    """
    plane, index = survey(joint), torch.arange(len(z))
    at_run = log_evidence(joint, plane, find_modes(joint, plane, sigma, z), sigma)
    sigma_ml, at_ml = ml_sigma(joint, plane, z)
    estimate, deviation = importance(joint, at_run.modes, sigma)
    best = at_run.modes.z[at_run.modes.heaviest()]
    top, own = (joint.log_joint(joint.squared_error(index, point), index, point, sigma)
                for point in (best, z))
    columns = {
        "log_p": at_run.log_p, "error": at_run.error,
        "modes": at_run.modes.image.bincount(minlength=len(z)), "behind": top - own,
        "log_p_ml": at_ml.log_p, "error_ml": at_ml.error,
        "bits_ml": bits_per_dim(at_ml.log_p, joint.n_values),
        "sampling_gap": estimate - at_run.log_p, "sampling_error": deviation}
    return plane, at_run, sigma_ml, [
        {"image": name} | {key: values[i].item() for key, values in columns.items()}
        for i, name in enumerate(names)]


def mean_row(rows):
    """The mean of each numeric column; the greatest of error estimates."""
    row = {"image": "mean"}
    for key in list(rows[0])[1:]:
        values = [r[key] for r in rows]
        row[key] = max(values) if key.startswith("error") else sum(values) / len(values)
    return row
