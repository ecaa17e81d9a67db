"""Images pixel by pixel: what PixelCNN and the two PixelRNNs share, and how they are measured.

    p(x) = prod_i p(x_i | x_<i)                                                        Eq. 1 and, for colours,
    p(x_i | x_<i) = p(R_i | x_<i) p(G_i | x_<i, R_i) p(B_i | x_<i, R_i, G_i)           Eq. 2

over pixels i row by row, from the left; each factor is a softmax over the levels of a value (Section 2.2).
Van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, ICML 2016: equations, sections
and figures are theirs. A net gives all factors of a given image at once; to draw an image takes as many passes
as it has values. log p is exact, in nats of one image.

Images here are levels, int64 (n, c, h, w) in 0 .. levels - 1.
"""
import functools
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from utils import set_seed, to_side
from zoo import core, measure, worlds
from zoo.core import Check

N_DRAWS = 500                    # digits that a model draws for its bars
PAPER = "van den Oord, Kalchbrenner and Kavukcuoglu 2016"


def colours_of(n, colours, parts=1):
    """Which colour each of n features is about: in each of `parts` equal parts first R, then G, then B.

    Raises ValueError if the parts and colours do not divide n.
    """
    if n % (colours * parts):
        raise ValueError(f"{n} features cannot be divided among {colours} colours in {parts} parts")
    return torch.arange(colours).repeat_interleave(n // (colours * parts)).repeat(parts)


class MaskedConv2d(nn.Conv2d):
    """A convolution that reads rows above and what is on the left: (n, len(reads), h, w) -> (n, len(writes), h, w).

    reads, writes  the colour of each input and output feature; -1: of none, read by all
    size           height and width of the kernel, odd
    kind           "A": at its own pixel a feature reads colours before its own; "B": and its own  (Section 3.4)

    The mask is applied at every pass: an optimizer may then do to the weights beneath it what it likes.
    """

    def __init__(self, reads, writes, size, kind):
        super().__init__(len(reads), len(writes), size, padding=(size[0] // 2, size[1] // 2))
        mask, (i, j) = torch.zeros_like(self.weight), self.padding
        mask[:, :, :i] = 1
        mask[:, :, i, :j] = 1
        mask[:, :, i, j] = (reads < writes[:, None] if kind == "A" else reads <= writes[:, None]).to(mask.dtype)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PixelModel(nn.Module):
    """The first layer, what a model is made of, and the softmaxes.

    shape    (c, h, w) of an image; all nets also take images of other heights and widths
    levels   how many values a colour of a pixel may have
    width    features within a block, a multiple of c; 2 width go from block to block
    blocks   modules (n, 2 width, h, w) -> the same that look at nothing later: the part that a subclass brings
    size     side of the first kernel, which has mask A
    """
    exact = True                 # log_prob is log p itself

    def __init__(self, shape, levels, width, blocks, size=7):
        super().__init__()
        self.shape, self.levels, c = tuple(shape), levels, shape[0]
        wide = colours_of(2 * width, c)
        reads = torch.cat([torch.arange(c), torch.tensor([-1])])         # the last channel is 1 everywhere
        self.first = MaskedConv2d(reads, wide, (size, size), "A")
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.ReLU(), MaskedConv2d(wide, wide, (1, 1), "B"), nn.ReLU(),
                                  MaskedConv2d(wide, colours_of(c * levels, c), (1, 1), "B"))
        self.history = []        # mean -log p of a batch after each step of fit, nats

    @property
    def n_parameters(self):
        """How many numbers are learned, those beneath masks not counted."""
        beneath = sum((1 - m.mask).sum() for m in self.modules() if isinstance(m, MaskedConv2d))
        return core.n_parameters(self) - int(beneath)

    def forward(self, x):
        """Logits of every value's level: (n, c, h, w) -> (n, c, levels, h, w).

        A channel of ones tells the border, where the kernels read 0, from a pixel whose intensity is 0.
        """
        x = (2 * x / (self.levels - 1) - 1).to(self.first.weight.dtype)
        features = self.blocks(self.first(torch.cat([x, torch.ones_like(x[:, :1])], 1)))
        return self.head(features).unflatten(1, (-1, self.levels))

    def log_probs(self, x):
        """log p(x_i | x_<i) of every value, nats: (n, c, h, w) -> the same. Dropout is as the module's mode says.

        Raises ValueError if x is not of levels or not of c channels.
        """
        if x.dim() != 4 or x.shape[1] != self.shape[0] or x.is_floating_point():
            raise ValueError(f"images must be int64 (n, {self.shape[0]}, h, w); these are {x.dtype} {(*x.shape,)}")
        if len(x) and not 0 <= x.min() <= x.max() < self.levels:
            raise ValueError(f"levels must be 0 to {self.levels - 1}; they are {x.min()} to {x.max()}")
        return self(x).log_softmax(2).gather(2, x.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def log_prob(self, x):
        """log p(x) in nats, exact: (n, c, h, w) -> (n,)."""
        return self.eval().log_probs(x).flatten(1).sum(1)

    def bits_per_dim(self, x):
        """-log2 p(x) for each value, mean over images (n, c, h, w): log2(levels) if all were equally likely."""
        return -self.log_prob(x).mean().item() / (math.log(2) * x[0].numel())

    def fit(self, x, *, steps, seed=0, lr=3e-3, batch=64):
        """Adam on the mean -log p of random batches of x (n, c, h, w); lr falls to 0 along a cosine -> self."""
        set_seed(seed)
        self.train()
        optimizer = torch.optim.Adam(self.parameters(), lr, fused=True)
        falling = CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            loss = -self.log_probs(x[torch.randint(len(x), (min(batch, len(x)),))]).flatten(1).sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 50.0)      # nats; few steps reach it, all of them early
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


# ------------------------------------------------------------------------------------------------------ exact

def probe(net, shape):
    """measure.causality of the logits of a net, at a random image (c, h, w) of which every value is changed."""
    x = torch.randint(net.levels, shape)
    return measure.causality(net.double().eval(), x, (x + 1 + torch.randint(net.levels - 1, shape)) % net.levels)


def reach(side, layers):
    """Share of pairs (pixel, later pixel) of a square in which the later one can be told of the earlier.

    layers  of the net, the first one first: the offsets (di, dj) at which each reads. Counted from sets of
            pixels alone, with no net.
    """
    pairs = 0
    for i, j in itertools.product(range(side), repeat=2):
        seen = {(i, j)}
        for offsets in reversed(layers):
            seen = {(a + di, b + dj) for a, b in seen for di, dj in offsets
                    if 0 <= a + di < side and 0 <= b + dj < side}
        pairs += len(seen - {(i, j)})
    return pairs / math.comb(side**2, 2)


def kernel(half, own):
    """Offsets that a masked square kernel of side 2 half + 1 reads; `own`: its own pixel too (mask B)."""
    square = itertools.product(range(-half, half + 1), repeat=2)
    return {place for place in square if place < (0, 0) or (own and place == (0, 0))}


def exact_checks(name, make, leaks, layers, shallow):
    """What must hold of an autoregression, whatever it has learned.

    make     (shape, levels, **options) -> net
    leaks    {what was broken: function of a net that breaks it}; the first of them after training, too
    layers   as of `reach`, for nets with the default options; shallow: a net that reaches less, for the control
    """
    def built(shape, levels, broken=None):
        set_seed(1)
        net = make(shape, levels)
        leaks.get(broken, lambda net: None)(net)
        return net

    grey, colour = ({broken: probe(built((c, side, side), levels, broken), (c, side, side))
                     for broken in (None, *leaks)} for c, side, levels in ((1, 8, 5), (3, 4, 4)))
    share = reach(8, layers)
    set_seed(1)
    checks = [
        Check(f"{name}, grey: largest move of an output at or before the changed pixel", grey[None].leak,
              hi=1e-6, source="0; Eq. 1", controls={broken: grey[broken].leak for broken in leaks}),
        Check(f"{name}, RGB: likewise, at or before the changed colour of a pixel", colour[None].leak, hi=1e-6,
              source="0; Eq. 2", controls={broken: colour[broken].leak for broken in leaks} | {
                  "colours not told apart": probe(_one_colour(built((3, 4, 4), 4)), (3, 4, 4)).leak}),
        Check(f"{name}: share of later pixels of 8 x 8 that a change reaches", grey[None].reached,
              share - 1e-9, share + 1e-9, "counted from the layers' kernels" + " and states" * (share == 1),
              {"fewer layers": probe(shallow((1, 8, 8), 5), (1, 8, 8)).reached}),
        Check(f"{name}, RGB: share of a pixel's later colours that a change of a colour reaches",
              _within(colour[None]), 1, 1, "Eq. 2", {"colours drawn apart": _within(
                  probe(_apart(built((3, 4, 4), 4)), (3, 4, 4)))})]
    return checks + _small(name, built, next(iter(leaks)))


def _one_colour(net):
    """The net with a mask B that lets a feature read all colours of its own pixel."""
    for m in net.modules():
        if isinstance(m, MaskedConv2d) and m is not net.first:
            m.mask[:, :, m.padding[0], m.padding[1]] = 1
    return net


def _apart(net):
    """The net whose first layer reads no colour of its own pixel: all three are drawn from earlier pixels."""
    net.first.mask[:, :-1, net.first.padding[0], net.first.padding[1]] = 0
    return net


def _within(found):
    """Share of pairs of colours (R, G), (R, B), (G, B) of one pixel in which the later one moves."""
    d = len(found.moves) // 3
    own = found.moves.view(d, 3, d, 3).diagonal(dim1=0, dim2=2)             # (changed, moved, pixel)
    first, later = torch.triu_indices(3, 3, 1)
    return (own[first, later] > measure.LEAST_MOVE).double().mean().item()


def _small(name, built, leak):
    """All 512 binary images of 3 x 3: probabilities add up to 1, and images are drawn as often as these say."""
    every = torch.tensor(list(itertools.product((0, 1), repeat=9))).view(-1, 1, 3, 3)
    bars = every[(every == every[:, :, :1]).flatten(1).all(1) | (every == every[..., :1]).flatten(1).all(1)]

    def trained(broken=None):
        return built((1, 3, 3), 2, broken).fit(bars, steps=40, seed=1, lr=1e-2)

    def excess(net):
        return net.log_prob(every).double().logsumexp(0).item()

    def frequencies(x):
        code = (x.flatten(1) * 2 ** torch.arange(8, -1, -1)).sum(1)
        return torch.bincount(code, minlength=512).double() / len(x)

    net, n = trained(), 10_000
    p = net.log_prob(every).double().exp()
    drawn, again = (frequencies(every[torch.multinomial(p, n, replacement=True)]) for _ in range(2))
    source = f"draws of the table of probabilities give {measure.total_variation(p, drawn):.3f}"
    columns = [(i, j) for j in range(3) for i in range(3)]
    return [
        Check(f"{name}: log of the sum of p over all binary 3 x 3 images [nats]", excess(net), -1e-4, 1e-4,
              "0", {leak: excess(trained(leak))}),
        Check(f"{name}: TV of {n} drawn 3 x 3 images to their probabilities",
              measure.total_variation(p, frequencies(net.sample(n))), hi=0.06, source=source,
              controls={"drawn column by column": measure.total_variation(p, frequencies(net.sample(n, columns))),
                        "probabilities of another net": measure.total_variation(
                            built((1, 3, 3), 2).log_prob(every).double().exp(), again)})]


# ------------------------------------------------------------------------------------------------------ bench

def digits():
    """worlds.digits at its 17 levels: train (1400, 1, 8, 8), test (397, 1, 8, 8), int64, and test's classes."""
    (train, _), (test, classes) = worlds.digits()
    return (16 * train).round().long(), (16 * test).round().long(), classes


def bits(log_p):
    """-log2 p for each pixel of a digit, from log p (n,) in nats: the mean."""
    return -log_p.mean().item() / (64 * math.log(2))


def independent(train, x):
    """log p of digits x (n, 1, 8, 8) if pixels were independent: counts of levels in train, and one -> (n,)."""
    counts = F.one_hot(train.flatten(1), 17).sum(0) + 1.0
    log_p = (counts / counts.sum(1, keepdim=True)).log()                                     # (64, 17)
    return log_p[torch.arange(64), x.flatten(1)].sum(1)


def linear(train, x, steps=300):
    """log p of digits x if a pixel's logits were linear in the pixels before it, Adam on train -> (n,)."""
    net, before = nn.Linear(64, 64 * 17), torch.ones(64, 64).tril(-1).repeat_interleave(17, 0)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=1e-1)

    def log_prob(levels):
        levels = levels.flatten(1)
        logits = F.linear(levels / 16, net.weight * before, net.bias).unflatten(1, (64, 17))
        return logits.log_softmax(2).gather(2, levels.unsqueeze(2)).sum((1, 2))

    core.alternate((optimizer, lambda: -log_prob(train[torch.randint(len(train), (256,))]).mean(), steps))
    with torch.no_grad():
        return log_prob(x)


@functools.cache
def _ladder():
    """Bits/dim of test digits by the two simplest models."""
    train, test, _ = digits()
    set_seed(0)
    return {"independent pixels": bits(independent(train, test)), "linear autoregression": bits(linear(train, test))}


def digit_checks(name, make, steps, best, seed):
    """Train on digits: bits/dim of the test digits, and what 500 draws are worth.

    make  () -> net; best: the bits/dim to reach
    """
    train, test, classes = digits()
    set_seed(seed)
    model = make().fit(train, steps=steps, seed=seed)
    cheat = make()
    cheat.first.mask[:, :, cheat.first.padding[0], cheat.first.padding[1]] = 1
    cheat.fit(train, steps=100, seed=seed)
    drawn, log_p = model.sample(N_DRAWS), model.log_prob(test)
    apart = torch.stack([train[torch.randint(len(train), (N_DRAWS,)), 0, i, j]
                         for i, j in itertools.product(range(8), repeat=2)], 1).view(-1, 1, 8, 8)
    share, alone, blank = (measure.class_shares(x.flatten(1).float(), test.flatten(1).float(), classes).min().item()
                           for x in (drawn, apart, drawn[:1].expand(N_DRAWS, -1, -1, -1)))
    ratio, other = (model.log_prob(x).mean().item() / log_p.mean().item() for x in (drawn, apart))
    return [
        Check(f"{name}, digits: test bits/dim, 17 levels", bits(log_p), 1.5, best,
              f"beforehand; below 1.5 it must be a leak; all levels alike {math.log2(17):.2f}",
              _ladder() | {"mask B first, 100 steps": cheat.bits_per_dim(test)}),
        Check(f"{name}, digits: share of the rarest of 10 classes among {N_DRAWS} draws", share, 0.04, 0.1,
              "judged by the 3 nearest held-out digits; at .02 pixels by themselves would pass",
              {"each pixel for itself": alone, "one digit": blank}),
        Check(f"{name}, digits: mean -log p of own draws / of test digits", ratio, 0.95, 1.05, "beforehand",
              {"each pixel for itself": other})]


# ---------------------------------------------------------------------------------------------------- animals

class Thumbnails:
    """A model of small pictures in few levels, as a sampler of images in [-1, 1].

    It has no log_prob: probabilities of levels are no density of the images from which they were made.
    """

    def __init__(self, model):
        self.model, self.n_parameters = model, model.n_parameters
        self.view = f"{model.shape[1]} x {model.shape[2]}, {model.levels} levels"

    def levels(self, images):
        """Images (n, 3, S, S) in [-1, 1] -> levels (n, 3, h, w): pixels averaged, then equal bins."""
        small = to_side(images, self.model.shape[1])
        return ((small + 1) / 2 * self.model.levels).long().clamp(0, self.model.levels - 1)

    def fit(self, images, **options):
        """Learn from images (n, 3, S, S) and their mirror images; options as of PixelModel.fit -> self."""
        x = self.levels(images)
        self.model.fit(torch.cat([x, x.flip(3)]), **options)
        return self

    def sample(self, n):
        """n images (n, 3, h, w): each value the centre of its bin."""
        return (2 * self.model.sample(n) + 1) / self.model.levels - 1

    def bits_per_dim(self, images):
        """Bits for each value of images (n, 3, S, S), in this view of them: at most log2(levels) make sense."""
        return self.model.bits_per_dim(self.levels(images))
