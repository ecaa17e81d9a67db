"""Autoregressive models of images in levels: what PixelCNN and PixelRNN share.

    p(x) = prod_i p(x_i | x_<i)                                                   Eq. 1
    p(x_i | x_<i) = p(R_i | x_<i) p(G_i | x_<i, R_i) p(B_i | x_<i, R_i, G_i)      Eq. 2

Pixels i run row by row from the left; each factor is a softmax over the levels of one value
(Section 2.2). Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML
2016, which all equations, sections and figures refer to. One pass gives all factors of a known
image; drawing an image takes one pass per value. log p is exact, in nats per image.

Images are levels, int64 (n, c, h, w) in 0 .. levels - 1.
"""
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from zoo import networks, views
from zoo.train import descend


def colours_of(n, colours, parts=1):
    """The colour that each of n features belongs to: R, G, B in equal shares in each of `parts`."""
    return torch.arange(colours).repeat_interleave(n // (colours * parts)).repeat(parts)


class MaskedConv2d(nn.Conv2d):
    """A convolution of earlier values: (n, len(reads), h, w) -> (n, len(writes), h, w).

    reads, writes  colour of each input and output feature; -1: no colour, readable by all
    size           height and width of the kernel, both odd
    kind           mask "A" reads earlier colours of its own pixel; "B" its own colour too
                   (Section 3.4)
    """

    def __init__(self, reads, writes, size, kind):
        i, j = size[0] // 2, size[1] // 2
        super().__init__(len(reads), len(writes), size, padding=(i, j))
        mask = torch.zeros_like(self.weight)
        mask[:, :, :i] = 1
        mask[:, :, i, :j] = 1
        earlier = reads < writes[:, None] if kind == "A" else reads <= writes[:, None]
        mask[:, :, i, j] = earlier.float()
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PixelModel(nn.Module):
    """First layer, blocks and softmax outputs.

    shape   (c, h, w) of an image
    levels  number of values of a colour
    width   features within a block, a multiple of c; 2 width between blocks
    blocks  causal modules (n, 2 width, h, w) -> the same shape
    size    height and width of the first kernel, which has mask A
    """

    def __init__(self, shape, levels, width, blocks, size=(7, 7)):
        super().__init__()
        self.shape, self.levels, c = shape, levels, shape[0]
        wide = colours_of(2 * width, c)
        reads = torch.cat([torch.arange(c), torch.tensor([-1])])      # the last channel is all ones
        self.first = MaskedConv2d(reads, wide, size, "A")
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.ReLU(), MaskedConv2d(wide, wide, (1, 1), "B"),
            nn.ReLU(), MaskedConv2d(wide, colours_of(c * levels, c), (1, 1), "B"))

    @property
    def n_parameters(self):
        """Number of parameters that no mask hides."""
        masked = sum((1 - m.mask).sum() for m in self.modules() if isinstance(m, MaskedConv2d))
        return networks.n_parameters(self) - int(masked)

    def forward(self, x):
        """Logits of the level of every value: (n, c, h, w) -> (n, c, levels, h, w).

        A channel of ones tells pixels of intensity 0 from the zero padding beyond the border.
        """
        x = (2 * x / (self.levels - 1) - 1).to(self.first.weight.dtype)
        features = self.blocks(self.first(torch.cat([x, torch.ones_like(x[:, :1])], 1)))
        return self.head(features).unflatten(1, (-1, self.levels))

    def log_probs(self, x):
        """log p(x_i | x_<i) of every value in nats: (n, c, h, w) -> (n, c, h, w)."""
        return self(x).log_softmax(2).gather(2, x.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def log_prob(self, x):
        """log p(x) in nats, exact, without dropout: (n, c, h, w) -> (n,)."""
        return self.eval().log_probs(x).flatten(1).sum(1)

    def fit(self, x, steps, lr=3e-3, batch=64):
        """Maximum likelihood on images x (n, c, h, w) for `steps` steps of Adam; returns self."""
        def loss():
            return -self.log_probs(x[torch.randint(len(x), (batch,))]).flatten(1).sum(1).mean()

        self.train()                           # the clipping acts on a few early steps only
        descend(self.parameters(), loss, steps, lr, clip=50.0)
        return self.eval()

    @torch.no_grad()
    def sample(self, n):
        """n images (n, c, h, w), drawn value by value."""
        self.eval()
        c, h, w = self.shape
        x = torch.zeros(n, c, h, w, dtype=torch.int64)
        for i, j, k in itertools.product(range(h), range(w), range(c)):
            probs = self(x[:, :, :i + 1])[:, k, :, i, j].softmax(1)   # rows below i are not read
            x[:, k, i, j] = torch.multinomial(probs, 1).squeeze(1)
        return x


class Thumbnails:
    """An autoregressive model of small pictures in few levels, as a sampler of images in [-1, 1].

    It has no log_prob: probabilities of levels are not densities of the original images.

    model   has sample, log_prob and shape, that of its items: (c, h, w) or flat
    shape   (c, h, w) of a picture; c = 1 is grey
    levels  number of values of a colour
    """

    def __init__(self, model, shape, levels):
        self.model, self.shape, self.levels = model, shape, levels
        self.n_parameters = model.n_parameters

    def encode(self, images):
        """Images (n, 3, S, S) in [-1, 1] -> levels (n, *model.shape)."""
        return views.to_levels(images, self.shape, self.levels).view(-1, *self.model.shape)

    def sample(self, n):
        """n images (n, 3, h, w); each value is the centre of its bin."""
        return views.from_levels(self.model.sample(n).view(-1, *self.shape), self.levels)

    def bits_per_dim(self, images):
        """-log2 p per value of images (n, 3, S, S) in this view; log2(levels) is the uniform."""
        x = self.encode(images)
        return -self.model.log_prob(x).mean().item() / (math.log(2) * x[0].numel())
