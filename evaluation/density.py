"""The joint density p(z, I_i) of a generator with a 2-D latent, for many images and any sigma."""
import math

import torch

from inference.posterior import Posterior, frozen, squared_distances

BATCH = 64                     # points that go through the network together
# A pixel in bf16 is off by about 2^-10, U by some D 2^-20 / (2 sigma^2): below this sigma it hides the modes
LEAST_SIGMA = {torch.bfloat16: 1.0, torch.float32: 0.0}


class Joint:
    """log p(z, I_i) of a generator and its images: float32 forward, float64 sums over pixels.

    net          GenNet with a latent of 2 dimensions
    images       (n, 3, S, S) in [-1, 1]
    prior_sigma  std of the prior of z
    search       dtype of the deconvolutions for searches and chains, where sigma allows it; values are always
                 float32
    mask         (n, 1, S, S), 1 where a pixel is seen and 0 where it is not; None: all are seen
    """

    def __init__(self, net, images, prior_sigma, search=torch.float32, mask=None):
        self.images, self.prior_sigma, self.search, self.mask = images, prior_sigma, search, mask
        self.net = frozen(net)
        self.exact = frozen(net).double()
        seen = torch.full((len(images),), images[0].numel()) if mask is None else 3 * mask.sum((1, 2, 3))
        self.n_values = seen.double()                      # D of each image

    @property
    def quick_sigma(self):
        """The least sigma at which searches run in their own arithmetic; below it in float32."""
        return LEAST_SIGMA[self.search]

    def squared_error(self, index, z):
        """|I_i - g(z)|^2 for images index (m,) at z (m, 2), float64 -> (m,)."""
        return self._squared_error(self.net, index, z.float())

    def rounding(self, index, z):
        """|I_i - g(z)|^2 in float32 less that in float64 -> (m,)."""
        z = z.float()
        exact = self._squared_error(self.exact, index, z.double())
        return self.squared_error(index, z) - exact

    @torch.no_grad()
    def _squared_error(self, net, index, z):
        parts = []
        for i, part in zip(index.split(BATCH), z.split(BATCH), strict=True):
            residual = net(part) - self.images[i]
            if self.mask is not None:
                residual = residual * self.mask[i]
            parts.append(residual.square().sum((1, 2, 3), dtype=torch.float64))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)

    def log_joint(self, squared_error, index, z, sigma):
        """log N(I_i; g(z), sigma^2 I) + log N(z; 0, prior_sigma^2 I), from |I_i - g(z)|^2; (m,) float64."""
        return (-squared_error / (2 * sigma**2) - self.n_values[index] / 2 * math.log(2 * math.pi * sigma**2)
                - z.double().square().sum(-1) / (2 * self.prior_sigma**2)
                - math.log(2 * math.pi * self.prior_sigma**2))

    def posterior(self, index, sigma):
        """The posterior of the images index (m,), in the precision of the search if sigma allows it."""
        dtype = self.search if sigma >= self.quick_sigma else torch.float32
        return Posterior(self.net, self.images, sigma, self.prior_sigma, dtype, self.mask).of(index)

    def local(self, index, z, sigma):
        """U, dU/dz and the metric of the images index (m,) at z (m, 2), as `Posterior.local`."""
        parts = [self.posterior(i, sigma).local(part.float())
                 for i, part in zip(index.split(BATCH), z.split(BATCH), strict=True)]
        return tuple(torch.cat(values).double() for values in zip(*parts, strict=True))

    @torch.no_grad()
    def distances(self, z):
        """|I_i - g(z_k)|^2 of every image at every point z (m, 2) -> (n, m) float64, by matrix products."""
        net = self.net
        parts = [squared_distances(self.images, net(part), self.mask) for part in z.float().split(BATCH)]
        return torch.cat(parts, 1).double()
