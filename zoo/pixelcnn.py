"""PixelCNN: each pixel's colours from the pixels before it, by masked convolutions.

    x -> 7 x 7, mask A -> blocks  y + up(conv(down(y)))  -> 1 x 1, 1 x 1 -> softmax of each colour's level

    down, up  1 x 1 convolutions from 2h features to h and back
    conv      3 x 3; all three have mask B, and a ReLU before them

Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016: Section 3.5, the block
is the left one of Figure 5. What is not theirs: dropout in the blocks, and a channel of ones at the input.

A stack of such kernels is blind to some pixels above on the right (van den Oord et al., Conditional Image
Generation with PixelCNN Decoders, NIPS 2016, Section 2.2); here this is measured, not mended.
"""
from torch import nn

from runs.files import set_seed
from zoo.autoregressive import MaskedConv2d, PixelModel, Thumbnails, colours_of
from zoo.views import in_levels


class Block(nn.Module):
    """y + up(conv(down(y))): (n, 2 width, h, w) -> the same."""

    def __init__(self, width, colours, dropout):
        super().__init__()
        narrow, wide = colours_of(width, colours), colours_of(2 * width, colours)
        self.change = nn.Sequential(
            nn.ReLU(), MaskedConv2d(wide, narrow, (1, 1), "B"),
            nn.ReLU(), MaskedConv2d(narrow, narrow, (3, 3), "B"),
            nn.ReLU(), nn.Dropout(dropout), MaskedConv2d(narrow, wide, (1, 1), "B"))

    def forward(self, y):
        return y + self.change(y)


class PixelCNN(PixelModel):
    """shape (c, h, w), levels, width h and size as of PixelModel; n_blocks; dropout: share of h set to 0."""

    def __init__(self, shape, levels, width=24, n_blocks=4, size=(7, 7), dropout=0.3):
        blocks = [Block(width, shape[0], dropout) for _ in range(n_blocks)]
        super().__init__(shape, levels, width, blocks, size)


# ---------------------------------------------------------------------------------------------------- animals

VIEW = (3, 16, 16), 8


def seen(images):
    """Images (n, 3, S, S) in [-1, 1] -> (n, 3, 16, 16) in 8 levels."""
    return in_levels(images, *VIEW)


def animals(data, seed=0, steps=600):
    """Images (n, 3, S, S) in [-1, 1] as thumbnails of 16 x 16 in 8 levels -> pixels.Thumbnails.

    Few steps and much dropout: with so few images every further step goes into learning them by heart.
    """
    set_seed(seed)
    model = PixelCNN(*VIEW, width=36, dropout=0.3)
    return Thumbnails(model).fit(data, steps=steps, seed=seed, batch=12)
