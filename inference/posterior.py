"""The posterior p(z | I) of a fixed generator, from which the samplers draw."""
import copy
import warnings

import torch
from torch import nn

from runs.options import UserError

# torch compiles its rules of forward differentiation with a function that it has deprecated
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
AT_ONCE = 8            # tangents that go through the network together, to bound the memory
# bf16 rounds a pixel by about 2^-10 and U by D 2^-20 / (2 sigma^2); at smaller sigma this noise
# hides the modes
LEAST_BF16_SIGMA = 1.0


def sample_gaussian_prior(batch_size, nz, sig=1.0, generator=None):
    """z ~ N(0, sig^2 I): (batch_size, nz) float32, CPU; generator None: torch's global one."""
    return sig * torch.randn(batch_size, nz, generator=generator)


def squared_distances(a, b, mask=None):
    """|a_i - b_k|^2 over all pixels: (n, 3, S, S), (m, 3, S, S) -> (n, m) float64.

    A mask (n, 1, S, S) restricts the sum to the visible pixels of a_i:
    sum_p m_ip |a_ip|^2 - 2 sum_p m_ip a_ip . b_kp + sum_p m_ip |b_kp|^2. These terms are thousands
    of times their sum, hence float64: float32 is off by .5 nats at sigma .1.
    """
    # channels last in memory: flatten copies nothing
    a, b = (images.double().movedim(1, -1) for images in (a, b))
    if mask is None:
        return torch.cdist(a.flatten(1), b.flatten(1)).square()
    mask = mask.double().movedim(1, -1)
    visible = a * mask
    squares = visible.flatten(1).square().sum(1, keepdim=True)
    squares = squares + mask.flatten(1) @ b.square().sum(3).flatten(1).T
    cross = visible.flatten(1) @ b.flatten(1).T
    return (squares - 2 * cross).clamp(min=0)  # rounding can turn 0 negative


# ---------------------------------------------------------------------------------- any generator

def frozen(net):
    """A copy of a generator for inference, in eval mode and without gradients to its weights."""
    return copy.deepcopy(net).requires_grad_(False).eval()


@torch.no_grad()
def jacobian(net, z):
    """g(z) (n, 3, S, S) and J = dg/dz (nz, n, 3, S, S), by forward differentiation.

    net  any module that maps z (n, nz) to images, row by row
    Costs a tangent for each of the nz axes and a forward pass for every AT_ONCE of them.
    """
    def derivative(axis):
        return torch.func.jvp(net, (z,), (axis.expand_as(z),))

    axes = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    parts = [torch.func.vmap(derivative, out_dims=(None, 0))(part) for part in axes.split(AT_ONCE)]
    return parts[0][0], torch.cat([tangents for _, tangents in parts])


def check_generator(net, nz, shape):
    """Raise UserError unless a generator maps z (n, nz) to images (n, *shape), row by row."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise UserError(f"the generator's layer {name} is {type(layer).__name__}, which mixes "
                            "the images of a batch; use nn.GroupNorm or nn.LayerNorm")
    z = torch.zeros(2, nz, device=next(net.parameters()).device)
    with torch.no_grad():
        found = tuple(frozen(net)(z).shape)
    if found != (2, *shape):
        raise UserError(f"the generator maps z (2, {nz}) to {found}, not "
                        f"{(2, *shape)}; change --img_size, --nz or GenNet in models.py")


class Posterior:
    """p(z_i | I_i) proportional to exp(-U_i(z)) for images I (n, 3, S, S), one latent (n, nz) each.

    net          a generator, as `frozen` returns it
    sigma        std of the noise on a pixel, Eq. 3
    prior_sigma  std of the prior of z
    dtype        of the convolutions: float32, or bfloat16 if sigma >= LEAST_BF16_SIGMA
    mask         (n, 1, S, S), 1 visible and 0 hidden: errors and J are 0 on hidden pixels; or None
    """

    def __init__(self, net, images, sigma, prior_sigma=1.0, dtype=torch.float32, mask=None):
        self.net, self.images, self.mask = net, images, mask
        self.sigma, self.prior_sigma = sigma, prior_sigma
        self.dtype = dtype if sigma >= LEAST_BF16_SIGMA else torch.float32

    def of(self, index):
        """The posterior of the images `index` (m,), which may repeat."""
        mask = None if self.mask is None else self.mask[index]
        return Posterior(self.net, self.images[index], self.sigma, self.prior_sigma, self.dtype,
                         mask)

    def g(self, z):
        """The generator: z (n, nz) -> images (n, 3, S, S), float32."""
        with self._autocast():
            return self.net(z).float()

    def _autocast(self):
        device = self.images.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def energy(self, z):
        """U(z) = |I - g(z)|^2 / (2 sigma^2) + |z|^2 / (2 prior_sigma^2), (n, nz) -> (n,) (Eq. 3)"""
        return self._energy(z, self._visible(self.g(z) - self.images))

    def local(self, z):
        """U(z) (n,), dU/dz (n, nz), metric J'J / sigma^2 + I / prior_sigma^2 (n, nz, nz)."""
        with self._autocast():
            images, tangents = jacobian(self.net, z)
        residual, tangents = self._visible(images.float() - self.images), self._visible(tangents)
        tangents = tangents.flatten(2).float().transpose(0, 1)                          # (n, nz, D)
        pull = torch.einsum("nad,nd->na", tangents, residual.flatten(1)) / self.sigma**2
        metric = tangents @ tangents.mT / self.sigma**2
        prior = torch.eye(z.shape[1], device=z.device) / self.prior_sigma**2
        return self._energy(z, residual), pull + z / self.prior_sigma**2, metric + prior

    def _visible(self, values):
        """Values (..., n, 3, S, S), 0 where a pixel is hidden."""
        return values if self.mask is None else values * self.mask

    def _energy(self, z, residual):
        return (residual.square().sum((1, 2, 3)) / (2 * self.sigma**2)
                + z.square().sum(1) / (2 * self.prior_sigma**2))

    @torch.no_grad()
    def resample(self, draws, current=None):
        """Choose for each image one of the draws (m, nz) of the prior by likelihood -> z (n, nz).

        Without `current` this is sampling-importance-resampling (Rubin 1987), the start of a cold
        chain. With the states `current` (n, nz) of warm chains among the candidates it is iterated
        sampling-importance-resampling, which leaves the posterior invariant (Andrieu, Lee and
        Vihola 2018) and lets a chain leave a local mode. All images share the draws.
        """
        squared_error = torch.cat([squared_distances(self.images, self.g(part), self.mask)
                                   for part in draws.split(64)], 1)
        if current is not None:
            own = self._visible(self.g(current) - self.images).double().square().sum((1, 2, 3))
            squared_error = torch.cat([squared_error, own.unsqueeze(1)], 1)
        # with Gumbel noise, argmax draws from the softmax
        gumbel = -torch.empty_like(squared_error, dtype=torch.float32).exponential_().log()
        chosen = (gumbel - squared_error / (2 * self.sigma**2)).argmax(1)
        if current is None:
            return draws[chosen]
        stays = chosen == len(draws)
        return torch.where(stays.unsqueeze(1), current, draws[chosen.clamp(max=len(draws) - 1)])
