"""PixelCNN: each pixel given the pixels before it, by masked convolutions.

    x -> 7 x 7, mask A -> blocks y + up(conv(down(y))) -> two 1 x 1 -> softmax over levels

    down, up  1 x 1 convolutions from 2h features to h and back
    conv      3 x 3; all three have mask B and a ReLU in front

Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016, Section 3.5;
the block is the left one of Figure 5. Not in the paper: dropout in the blocks and the input channel
of ones.

Stacked masked kernels have a blind spot above on the right (van den Oord et al., Conditional Image
Generation with PixelCNN Decoders, NIPS 2016, Section 2.2). It is measured here and not removed.
"""
import torch
from torch import nn

from zoo import views
from zoo.autoregressive import MaskedConv2d, PixelModel, Thumbnails, colours_of


class Block(nn.Module):
    """y + up(conv(down(y))): (n, 2 width, h, w) -> the same shape."""

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
    """shape (c, h, w), levels and width h as in PixelModel."""

    def __init__(self, shape, levels, width=24, n_blocks=4, dropout=0.3):
        blocks = [Block(width, shape[0], dropout) for _ in range(n_blocks)]
        super().__init__(shape, levels, width, blocks)


VIEW = (3, 16, 16), 8


def seen(images):
    """Images (n, 3, S, S) in [-1, 1] -> (n, 3, 16, 16) in 8 levels."""
    return views.in_levels(images, *VIEW)


def animals(data, steps=600):
    """PixelCNN of images (n, 3, S, S) in [-1, 1] and their mirror images, 16 x 16 in 8 levels.

    More steps or less dropout overfit these few images.
    """
    model = Thumbnails(PixelCNN(*VIEW, width=36), *VIEW)
    model.model.fit(model.encode(torch.cat([data, data.flip(3)])), steps, batch=12)
    return model
