"""Images pixel by pixel: what PixelCNN and the two PixelRNNs share.

    p(x) = prod_i p(x_i | x_<i)                                                        Eq. 1 and, for colours,
    p(x_i | x_<i) = p(R_i | x_<i) p(G_i | x_<i, R_i) p(B_i | x_<i, R_i, G_i)           Eq. 2

over pixels i row by row, from the left; each factor is a softmax over the levels of a value (Section 2.2).
Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016: equations, sections
and figures are theirs. A net gives all factors of a given image at once; to draw an image takes as many
passes as it has values. log p is exact, in nats of one image.

Images here are levels, int64 (n, c, h, w) in 0 .. levels - 1.
"""
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from runs.files import set_seed
from zoo import views
from zoo.core import n_parameters


def colours_of(n, colours, parts=1):
    """Which colour each of n features is about: in each of `parts` equal parts first R, then G, then B.

    Raises ValueError if the parts and colours do not divide n.
    """
    if n % (colours * parts):
        raise ValueError(f"{n} features cannot be divided among {colours} colours in {parts} parts")
    return torch.arange(colours).repeat_interleave(n // (colours * parts)).repeat(parts)


class MaskedConv2d(nn.Conv2d):
    """A convolution that reads the rows above and what is on the left.

    (n, len(reads), h, w) -> (n, len(writes), h, w), from Section 3.4

    reads, writes  the colour of each input and output feature; -1: of none, read by all
    size           height and width of the kernel, odd
    kind           "A": at its own pixel a feature reads colours before its own; "B": and its own

    Raises ValueError if a side of the kernel is even: it would have no middle.
    The mask is applied at every pass: an optimizer may then do to the weights beneath it what it likes.
    """

    def __init__(self, reads, writes, size, kind):
        if not all(side % 2 for side in size):
            raise ValueError(f"the sides of a masked kernel must be odd; they are {size[0]} and {size[1]}")
        super().__init__(len(reads), len(writes), size, padding=(size[0] // 2, size[1] // 2))
        mask, (i, j) = torch.zeros_like(self.weight), self.padding
        mask[:, :, :i] = 1
        mask[:, :, i, :j] = 1
        mask[:, :, i, j] = (reads < writes[:, None] if kind == "A" else reads <= writes[:, None]).float()
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PixelModel(nn.Module):
    """The first layer, what a model is made of, and the softmaxes.

    shape    (c, h, w) of an image; all nets also take images of other heights and widths
    levels   how many values a colour of a pixel may have
    width    features within a block, a multiple of c; 2 width go from block to block
    blocks   modules (n, 2 width, h, w) -> the same that look at nothing later: what a subclass brings
    size     height and width of the first kernel, which has mask A
    """
    exact = True                 # log_prob is log p itself

    def __init__(self, shape, levels, width, blocks, size=(7, 7)):
        super().__init__()
        self.shape, self.levels, c = tuple(shape), levels, shape[0]
        wide = colours_of(2 * width, c)
        reads = torch.cat([torch.arange(c), torch.tensor([-1])])         # the last channel is 1 everywhere
        self.first = MaskedConv2d(reads, wide, size, "A")
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.ReLU(), MaskedConv2d(wide, wide, (1, 1), "B"), nn.ReLU(),
                                  MaskedConv2d(wide, colours_of(c * levels, c), (1, 1), "B"))
        self.history = []        # mean -log p of a batch after each step of fit, nats

    @property
    def n_parameters(self):
        """How many numbers are learned, those beneath masks not counted."""
        beneath = sum((1 - m.mask).sum() for m in self.modules() if isinstance(m, MaskedConv2d))
        return n_parameters(self) - int(beneath)

    def forward(self, x):
        """Logits of every value's level: (n, c, h, w) -> (n, c, levels, h, w).

        A channel of ones tells the border, where the kernels read 0, from a pixel whose intensity is 0.
        """
        x = (2 * x / (self.levels - 1) - 1).to(self.first.weight.dtype)
        features = self.blocks(self.first(torch.cat([x, torch.ones_like(x[:, :1])], 1)))
        return self.head(features).unflatten(1, (-1, self.levels))

    def log_probs(self, x):
        """log p(x_i | x_<i) of every value, nats: (n, c, h, w) -> the same; dropout if the module trains.

        Raises ValueError if x is not of levels or not of c channels.
        """
        if x.dim() != 4 or x.shape[1] != self.shape[0] or x.is_floating_point():
            raise ValueError(f"levels must be integers (n, {self.shape[0]}, h, w); they are {x.dtype} "
                             f"{tuple(x.shape)}")
        if len(x) and not 0 <= x.min() <= x.max() < self.levels:
            raise ValueError(f"levels must be from 0 to {self.levels - 1}; they are {x.min()} to {x.max()}")
        return self(x).log_softmax(2).gather(2, x.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def log_prob(self, x):
        """log p(x) in nats, exact: (n, c, h, w) -> (n,)."""
        return self.eval().log_probs(x).flatten(1).sum(1)

    def bits_per_dim(self, x):
        """-log2 p(x) for each value, mean over images (n, c, h, w); log2(levels) if all are as likely."""
        return -self.log_prob(x).mean().item() / (math.log(2) * x[0].numel())

    def fit(self, x, *, steps, seed=0, lr=3e-3, batch=64):
        """Adam on the mean -log p of random batches of x (n, c, h, w); lr falls along a cosine -> self."""
        set_seed(seed)
        self.train()
        optimizer = torch.optim.Adam(self.parameters(), lr, fused=True)
        falling = CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            loss = -self.log_probs(x[torch.randint(len(x), (min(batch, len(x)),))]).flatten(1).sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 50.0)      # nats; few steps reach it, at the start
            optimizer.step()
            falling.step()
            self.history.append(loss.item())
        return self.eval()

    @torch.no_grad()
    def sample(self, n, order=None):
        """n images (n, c, h, w), int64, value by value.

        order  pixels (i, j) in the order in which they are drawn; None: row by row, the only right one
        """
        self.eval()
        c, h, w = self.shape
        x = torch.zeros(n, c, h, w, dtype=torch.int64)
        for i, j in order or itertools.product(range(h), range(w)):
            for k in range(c):
                share = self(x[:, :, :i + 1])[:, k, :, i, j].softmax(1)      # rows below are not read
                x[:, k, i, j] = torch.multinomial(share, 1).squeeze(1)
        return x


# ---------------------------------------------------------------------------------------------------- animals

class Thumbnails:
    """A model of small pictures in few levels, of three colours or grey, as a sampler of images in [-1, 1].

    It has no log_prob: probabilities of levels are no density of the images from which they were made.
    """

    def __init__(self, model):
        self.model, self.n_parameters = model, model.n_parameters
        self.view = views.name(model.shape, model.levels)

    def levels(self, images):
        """Images (n, 3, S, S) in [-1, 1] -> levels (n, c, h, w)."""
        return views.to_levels(images, self.model.shape, self.model.levels)

    def fit(self, images, **options):
        """Learn from images (n, 3, S, S) and their mirror images; options as of PixelModel.fit -> self."""
        x = self.levels(images)
        self.model.fit(torch.cat([x, x.flip(3)]), **options)
        return self

    def sample(self, n):
        """n images (n, 3, h, w): each value the centre of its bin."""
        return views.from_levels(self.model.sample(n), self.model.levels)

    def bits_per_dim(self, images):
        """Bits for each value of images (n, 3, S, S) in this view; log2(levels) if nothing were known."""
        return self.model.bits_per_dim(self.levels(images))
