"""The generator network g(z; theta) of I = g(z; theta) + eps: two linear layers, then deconvolutions."""
import math

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from deconv import Bilinear, Deconv

MIN_SIZE = 16          # the smallest picture: two deconvolutions from 4 x 4
AT_ONCE = 8            # tangents that go through the network together: more need more memory


class GenNet(nn.Module):
    """Deconvolutional generator: z (n, nz) -> images (n, 3, img_size, img_size) in [-1, 1].

    No layer looks across the batch (there is no batch normalisation), so g(z)[i] depends on z[i] alone.

    nz        dimension of the latent, at least 1
    img_size  side of the picture in pixels, a power of two from 16
    hidden    units of the layer that reads z: more of them let the map from z bend more
    width     channels at 64 x 64; twice as many at half the side, half at twice, from 16 to 8 width
    smooth    how many of the last deconvolutions, all but the first two at most, are bilinear interpolations
              of mixtures of the channels, after Heckel and Hand's deep decoder (ICLR 2019). What paints
              neighbouring pixels apart is then left out, and pixels that no image shows come out between
              their neighbours; images that are seen whole are sharper without

    Raises ValueError where a size is out of range.
    """

    def __init__(self, nz=2, img_size=128, hidden=128, width=24, smooth=0):
        super().__init__()
        if nz < 1 or hidden < 1 or width < 1 or smooth < 0:
            raise ValueError("nz, hidden and width must be at least 1 and smooth at least 0, not "
                             f"{nz}, {hidden}, {width}, {smooth}")
        if img_size < MIN_SIZE or img_size & (img_size - 1):
            raise ValueError(f"img_size must be a power of two from {MIN_SIZE}, not {img_size}")

        def channels(side):
            return min(8 * width, max(16, 64 * width // side))

        n_deconv = int(math.log2(img_size // 4))
        sides = [4 * 2**k for k in range(n_deconv)]
        self.code = nn.Sequential(
            nn.Linear(nz, hidden), nn.GELU(),
            nn.Linear(hidden, channels(4) * 16),
            # normalised, so that the code does not grow beyond the data and no picture burns out there
            nn.LayerNorm(channels(4) * 16, elementwise_affine=False), nn.GELU(),
            nn.Unflatten(1, (channels(4), 4, 4)),      # (n, 192, 4, 4)
        )
        layers = []
        for side in sides[:-1]:                                      # (n, c, side, side) -> twice the side
            layers += [Deconv(channels(side), channels(2 * side)), nn.Hardswish()]
        layers += [Deconv(channels(sides[-1]), 3), nn.Tanh()]
        self.deconv = nn.Sequential(*layers)
        self._initialise()
        for layer in layers[4::2][max(0, n_deconv - 2 - smooth):]:       # without the first two
            parametrize.register_parametrization(layer, "weight", Bilinear())

    def _initialise(self):
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=math.sqrt(2 / m.in_features))
                nn.init.zeros_(m.bias)
            elif isinstance(m, Deconv):
                # 4 of the 16 taps meet each output
                nn.init.normal_(m.weight, std=math.sqrt(2 / (4 * m.in_channels)))
                nn.init.zeros_(m.bias)
        first, last = self.code[0], self.deconv[-2]
        nn.init.normal_(first.weight, std=1.0)
        nn.init.normal_(first.bias, std=1.0)     # spreads the bends over the plane; 0 puts all at the origin
        with torch.no_grad():
            last.weight.mul_(0.3)                # start near grey, far from where tanh saturates

    def forward(self, z, dtype=torch.float32):
        """dtype is that of the deconvolutions; a latent rounded to bf16 would leave its own posterior."""
        return self.deconv(self.code(z).to(dtype))       # (n, nz) -> (n, 192, 4, 4) -> (n, 3, S, S)

    @torch.no_grad()
    def jacobian(self, z, dtype=torch.float32):
        """g(z) (n, 3, S, S) and J = dg/dz (nz, n, 3, S, S), by forward differentiation, in 1 + nz passes.

        One tangent for each latent coordinate goes through the layers beside the images, without a graph.
        """
        axes = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        with forward_ad.dual_level():
            duals = [forward_ad.unpack_dual(self.code(forward_ad.make_dual(z, axis.repeat(len(z), 1))))
                     for axis in axes]
        states = [duals[0].primal.to(dtype)]                     # what enters each layer, and the images
        for layer in self.deconv:
            states.append(layer(states[-1]))
        tangents = torch.stack([dual.tangent for dual in duals]).to(dtype)
        parts = [self._push(part, states) for part in tangents.split(AT_ONCE)]
        return states[-1], parts[0] if len(parts) == 1 else torch.cat(parts)

    def _push(self, tangents, states):
        """Tangents (k, n, ...) at the code through the deconvolutions -> (k, n, 3, S, S)."""
        for layer, h, y in zip(self.deconv, states, states[1:], strict=False):
            if isinstance(layer, Deconv):
                tangents = layer.tangent(tangents.flatten(0, 1)).unflatten(0, tangents.shape[:2])
            elif isinstance(layer, nn.Hardswish):    # no mixing of pixels: what backward gives is the tangent
                tangents = torch.ops.aten.hardswish_backward(tangents, h.expand_as(tangents))
            else:
                tangents = torch.ops.aten.tanh_backward(tangents, y)
        return tangents
