"""PixelRNN: each pixel given the pixels before it, by LSTMs that run over the image.

    (o, f, i, g) = (sigma, sigma, sigma, tanh)(K_ss * h' + K_is * x)
    c = f c' + i g,   h = o tanh(c),   with h', c' of the line before                       Eq. 3

Row LSTM (Section 3.1): lines are rows. K_ss is 1 x 3 along the row above, K_is 1 x 3 with mask B.
Its context is a triangle above the pixel, not all earlier pixels.

Diagonal BiLSTM (Section 3.2): lines are diagonals. The map is skewed, row i moved i places to the
right, so that a diagonal becomes a column. K_ss reads two places of the column before: the
pixel's left and upper neighbours. K_is is 1 x 1 with mask B. A second LSTM does the same from right
to left; its map moves down by one row before it is added, since right neighbours come later.
Together they reach all earlier pixels if the first kernel spans two image widths. Behind a 7 x 7
kernel they do not: mask A hides the last pixel of the row above from all features of that row, and
in its own row only columns within 3 read it.

Blocks are y + up(h), from 2h features to h and back (Section 3.3, the right one of Figure 5). Van
den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016.
"""
import torch
from torch import nn
from torch.nn import functional as F

from zoo import views
from zoo.autoregressive import MaskedConv2d, PixelModel, Thumbnails, colours_of


def skew(x):
    """Diagonals as lines: (n, f, h, w) -> (n, f, h + w - 1, h).

    Place i of line d is pixel (i, d - i), or 0 outside the image.
    """
    h, w = x.shape[2:]
    moved = F.pad(x, (0, h)).flatten(2)[:, :, :h * (h + w - 1)]       # row i moves i places
    return moved.unflatten(2, (h, h + w - 1)).transpose(2, 3)


def unskew(lines):
    """Inverse of skew: (n, f, h + w - 1, h) -> (n, f, h, w)."""
    d, h = lines.shape[2:]
    flat = F.pad(lines.transpose(2, 3).flatten(2), (0, h))
    return flat.unflatten(2, (h, d + 1))[..., :d + 1 - h]


class LineLSTM(nn.Module):
    """Eq. 3 with one step per line: (n, 4 d width, lines, places) -> h (n, d width, lines, places).

    The input is K_is * x. K_ss has no bias, since K_is has one: states outside a skewed map stay 0.

    before, after  places of the line before that K_ss reads on either side of its own
    d              number of directions, independent LSTMs that step together
    """

    def __init__(self, width, before, after, d):
        super().__init__()
        self.d, self.margin, self.n_taps = d, (before, after), before + 1 + after
        bound = (self.n_taps * width) ** -0.5                         # as in torch's layers
        weight = torch.empty(d, self.n_taps * width, 4 * width).uniform_(-bound, bound)
        self.state = nn.Parameter(weight)

    def forward(self, gates):
        n, places = len(gates), gates.shape[3]
        lines = gates.unflatten(1, (self.d, -1)).permute(3, 1, 4, 0, 2).flatten(2, 3)
        h = c = gates.new_zeros(self.d, places, n, self.state.shape[2] // 4)
        states = []
        for line in lines:                                            # (d, places n, 4 width)
            near = F.pad(h, (0, 0, 0, 0, *self.margin))
            near = torch.cat([near[:, k:k + places] for k in range(self.n_taps)], 3).flatten(1, 2)
            a = torch.baddbmm(line, near, self.state).unflatten(1, (places, n))
            o, f, i, g = a.chunk(4, 3)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states).permute(3, 1, 4, 0, 2).flatten(1, 2)


class RowBlock(nn.Module):
    """y + up(Row LSTM of y): (n, 2 width, h, w) -> the same shape."""
    kernel, taps, d = (1, 3), (1, 1), 1

    def __init__(self, width, colours, dropout):
        super().__init__()
        narrow, wide = colours_of(width, colours), colours_of(2 * width, colours)
        gates = colours_of(4 * self.d * width, colours, 4 * self.d)
        self.inputs = MaskedConv2d(wide, gates, self.kernel, "B")
        self.lstm = LineLSTM(width, *self.taps, self.d)
        self.up = nn.Sequential(nn.Dropout(dropout), MaskedConv2d(narrow, wide, (1, 1), "B"))

    def forward(self, y):
        return y + self.up(self.lstm(self.inputs(y)))


class DiagonalBlock(RowBlock):
    """y + up(Diagonal BiLSTM of y): (n, 2 width, h, w) -> the same shape."""
    kernel, taps, d = (1, 1), (1, 0), 2

    def forward(self, y):
        rightward, leftward = self.inputs(y).chunk(2, 1)
        states = unskew(self.lstm(skew(torch.cat([rightward, leftward.flip(3)], 1))))
        rightward, leftward = states.chunk(2, 1)
        return y + self.up(rightward + self.down(leftward.flip(3)))

    @staticmethod
    def down(states):
        """Each row becomes the row above, the first row 0: (n, f, h, w) -> the same shape."""
        return F.pad(states, (0, 0, 1, 0))[:, :, :-1]


class PixelRNN(PixelModel):
    """kind RowBlock or DiagonalBlock; shape (c, h, w), levels and width h as in PixelModel.

    size  first kernel; default 7 x 7 for rows, 3 x (2w - 1) for diagonals, whose states do the rest
    """

    def __init__(self, kind, shape, levels, width=24, n_blocks=2, size=None, dropout=0.3):
        size = size or ((3, 2 * shape[2] - 1) if kind is DiagonalBlock else (7, 7))
        blocks = [kind(width, shape[0], dropout) for _ in range(n_blocks)]
        super().__init__(shape, levels, width, blocks, size)


VIEW = views.STRING, views.STRING_LEVELS


def animals(data, steps=300):
    """Diagonal BiLSTM of images (n, 3, S, S) in [-1, 1] and mirror images, 8 x 8 in 16 greys."""
    model = Thumbnails(PixelRNN(DiagonalBlock, *VIEW), *VIEW)
    model.model.fit(model.encode(torch.cat([data, data.flip(3)])), steps, batch=12)
    return model
