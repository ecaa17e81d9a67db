"""The generator g(z; theta) of I = g(z; theta) + eps: two linear layers, then deconvolutions."""
import math

import torch
from torch import nn

MIN_SIZE = 16          # the smallest image: two deconvolutions from 4 x 4


class GenNet(nn.Module):
    """Deconvolutional generator: z (n, nz) -> images (n, 3, img_size, img_size) in [-1, 1].

    Without batch normalisation: g(z)[i] depends on z[i] alone.

    nz        dimension of the latent, at least 1
    img_size  side of the images in pixels, a power of two from 16
    hidden    width of the first layer; larger values allow a more nonlinear map
    width     channels at 64 x 64; inversely proportional to the side, within 16 to 8 width
    smooth    number of last deconvolutions (never the first two) that a 1 x 1 convolution and
              bilinear interpolation replace (deep decoder; Heckel and Hand, ICLR 2019). Hidden
              pixels are then interpolated; fully visible images are sharper with 0
    Raises ValueError if img_size is another.
    """

    def __init__(self, nz=2, img_size=128, hidden=128, width=24, smooth=0):
        super().__init__()
        if img_size < MIN_SIZE or img_size & (img_size - 1):
            raise ValueError(f"img_size must be a power of two from {MIN_SIZE}, not {img_size}")

        def channels(side):
            return min(8 * width, max(16, 64 * width // side))

        self.code = nn.Sequential(
            nn.Linear(nz, hidden), nn.GELU(),
            nn.Linear(hidden, channels(4) * 16),
            # keeps the scale of the code fixed for all z, so that no image saturates
            nn.LayerNorm(channels(4) * 16, elementwise_affine=False), nn.GELU(),
            nn.Unflatten(1, (channels(4), 4, 4)),      # (n, c, 4, 4)
        )
        sides = [4 * 2**k for k in range(int(math.log2(img_size // 4)))]
        layers = []
        for k, side in enumerate(sides):               # (n, c, side, side) -> twice the side
            out = channels(2 * side) if 2 * side < img_size else 3
            if k >= max(2, len(sides) - smooth):
                layers += [nn.Conv2d(channels(side), out, 1),
                           nn.Upsample(scale_factor=2, mode="bilinear")]
            else:
                layers += [nn.ConvTranspose2d(channels(side), out, 4, 2, 1)]
            layers += [nn.Hardswish() if 2 * side < img_size else nn.Tanh()]
        self.deconv = nn.Sequential(*layers)
        self._initialise()

    def _initialise(self):
        learned = [m for m in self.modules() if hasattr(m, "bias") and m.bias is not None]
        for m in learned:
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=math.sqrt(2 / m.in_features))
            else:  # 4 of the 16 taps of a deconvolution meet each output
                taps = 4 if isinstance(m, nn.ConvTranspose2d) else 1
                nn.init.normal_(m.weight, std=math.sqrt(2 / (taps * m.in_channels)))
            nn.init.zeros_(m.bias)
        nn.init.normal_(learned[0].weight, std=1.0)
        nn.init.normal_(learned[0].bias, std=1.0)  # spreads the kinks; with 0 all meet at z = 0
        with torch.no_grad():
            learned[-1].weight.mul_(0.3)  # start near grey, far from where tanh saturates

    def forward(self, z):
        """z (n, nz) -> images (n, 3, S, S). The code is float32 also under autocast: rounding z to
        bf16 would move it farther than its posterior is wide."""
        with torch.autocast(z.device.type, enabled=False):
            code = self.code(z)
        return self.deconv(code)                       # (n, c, 4, 4) -> (n, 3, S, S)
