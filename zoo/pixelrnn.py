"""PixelRNN: each pixel's colours from the pixels before it, by LSTMs over the image.

    (o, f, i, g) = (sigma, sigma, sigma, tanh)(K_ss * h' + K_is * x)
    c = f c' + i g,   h = o tanh(c),   with h', c' of the line before                                    Eq. 3

Row LSTM (Section 3.1): lines are rows. K_ss is 3 x 1 along the row above, K_is 3 x 1 with mask B. It sees a
triangle above, and not all that is before.

Diagonal BiLSTM (Section 3.2): lines are diagonals. The map is skewed, row i moved i places to the right, so
that a diagonal is a column: K_ss is then 2 x 1 along the column before, from the pixel's own row and from the
one above, which are its left and its upper neighbour. K_is is 1 x 1 with mask B. A second LSTM does the same
from right to left; its map moves down by a row before it is added, since a pixel's right neighbours come
after it. The two together see all that is before if the first kernel is as wide as two images. Under one of 7
no feature of the row above has read its last pixel, for mask A hides it, and in its own row only columns
within 3 of that pixel's have.

Blocks are y + up(h), from 2h features to h and back (Section 3.3, the right one of Figure 5); the first layer
and the head are those of PixelCNN.
Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016. Dropout is not theirs.
"""
import torch
from torch import nn
from torch.nn import functional as F

from runs.files import set_seed
from zoo.autoregressive import MaskedConv2d, PixelModel, Thumbnails, colours_of
from zoo.views import STRING, STRING_LEVELS, in_strings


def skew(x):
    """Diagonals as lines: (n, f, h, w) -> (n, f, h + w - 1, h); place i of line d: pixel (i, d - i) or 0."""
    h, w = x.shape[2:]
    moved = F.pad(x, (0, h)).flatten(2)[:, :, :h * (h + w - 1)]      # each row begins one place further right
    return moved.unflatten(2, (h, h + w - 1)).transpose(2, 3)


def unskew(lines):
    """The pixels of `skew`: (n, f, h + w - 1, h) -> (n, f, h, w)."""
    d, h = lines.shape[2:]
    flat = F.pad(lines.transpose(2, 3).flatten(2), (0, h))
    return flat.unflatten(2, (h, d + 1))[..., :d + 1 - h]


class LineLSTM(nn.Module):
    """An LSTM whose step is a line: from what K_is gave (n, 4 d width, lines, places) -> h (n, d width, ...).

    before, after  how many places K_ss reads of the line before, on either side of its own
    d              directions, each an LSTM of its own: both take their steps at once

    K_ss has no bias, since K_is has one: states beyond the border of a skewed map are 0.
    """

    def __init__(self, width, before, after, d=1):
        super().__init__()
        self.d, self.margin, self.n_taps = d, (before, after), before + 1 + after
        bound = (self.n_taps * width) ** -0.5                        # as of torch's layers
        self.state = nn.Parameter(torch.empty(d, self.n_taps * width, 4 * width).uniform_(-bound, bound))

    def forward(self, gates):
        n, _, _, places = gates.shape
        lines = gates.unflatten(1, (self.d, -1)).permute(3, 1, 4, 0, 2).flatten(2, 3)    # (.., places n, 4w)
        h = c = gates.new_zeros(self.d, places, n, self.state.shape[2] // 4)
        states = []
        for line in lines:
            near = F.pad(h, (0, 0, 0, 0, *self.margin))
            near = torch.cat([near[:, k:k + places] for k in range(self.n_taps)], 3).flatten(1, 2)
            a = torch.baddbmm(line, near, self.state).unflatten(1, (places, n))
            sigmas, g = a.split([3 * h.shape[3], h.shape[3]], 3)
            o, f, i = sigmas.sigmoid().chunk(3, 3)
            c = f * c + i * g.tanh()
            h = o * c.tanh()
            states.append(h)
        return torch.stack(states).permute(3, 1, 4, 0, 2).flatten(1, 2)


class RowBlock(nn.Module):
    """y + up(Row LSTM of y): (n, 2 width, h, w) -> the same."""

    def __init__(self, width, colours, dropout):
        super().__init__()
        narrow, wide = colours_of(width, colours), colours_of(2 * width, colours)
        self.inputs = MaskedConv2d(wide, colours_of(4 * width, colours, 4), (1, 3), "B")
        self.lstm = LineLSTM(width, 1, 1)
        self.up = nn.Sequential(nn.Dropout(dropout), MaskedConv2d(narrow, wide, (1, 1), "B"))

    def forward(self, y):
        return y + self.up(self.lstm(self.inputs(y)))


class DiagonalBlock(nn.Module):
    """y + up(Diagonal BiLSTM of y): (n, 2 width, h, w) -> the same."""

    def __init__(self, width, colours, dropout):
        super().__init__()
        narrow, wide = colours_of(width, colours), colours_of(2 * width, colours)
        self.inputs = MaskedConv2d(wide, colours_of(8 * width, colours, 8), (1, 1), "B")
        self.lstm = LineLSTM(width, 1, 0, d=2)
        self.up = nn.Sequential(nn.Dropout(dropout), MaskedConv2d(narrow, wide, (1, 1), "B"))

    def forward(self, y):
        rightward, leftward = self.inputs(y).chunk(2, 1)
        states = unskew(self.lstm(skew(torch.cat([rightward, leftward.flip(3)], 1))))
        rightward, leftward = states.chunk(2, 1)
        return y + self.up(rightward + self.down(leftward.flip(3)))

    @staticmethod
    def down(states):
        """Each row becomes that of the row above, and the first 0: (n, f, h, w) -> the same."""
        return F.pad(states, (0, 0, 1, 0))[:, :, :-1]


class PixelRNN(PixelModel):
    """kind RowBlock or DiagonalBlock; shape, levels, width h as of PixelModel; dropout: share of h set to 0.

    size  of the first kernel; None: 7 x 7 for rows, 3 x (2w - 1) for diagonals, whose states do the rest
    """

    def __init__(self, kind, shape, levels, width=24, n_blocks=2, size=None, dropout=0.3):
        size = size or ((3, 2 * shape[2] - 1) if kind is DiagonalBlock else (7, 7))
        blocks = [kind(width, shape[0], dropout) for _ in range(n_blocks)]
        super().__init__(shape, levels, width, blocks, size)


# ---------------------------------------------------------------------------------------------------- animals

seen = in_strings                # the view of the models of strings


def animals(data, seed=0, steps=300):
    """Diagonal BiLSTM of images (n, 3, S, S) in [-1, 1] as 8 x 8, 16 greys -> pixels.Thumbnails."""
    set_seed(seed)
    model = PixelRNN(DiagonalBlock, STRING, STRING_LEVELS, width=24, dropout=0.3)
    return Thumbnails(model).fit(data, steps=steps, seed=seed, batch=12)
