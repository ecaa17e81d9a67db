"""What PixelCNN and PixelRNN are held to: causality, reach, probabilities that add up to 1, and digits.

Equations are those of zoo/pixels.py. A net that leaks beats every likelihood, which therefore counts only
where nothing leaks.
"""
import functools
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from runs.files import set_seed
from zoo import datasets, metrics
from zoo.core import Check
from zoo.pixels import MaskedConv2d
from zoo.train import alternate

N_DRAWS = 500                    # digits that a model draws for its bars


# ------------------------------------------------------------------------------------------------------ exact

def probe(net, shape):
    """metrics.causality of the logits of a net, at a random image (c, h, w)."""
    x = torch.randint(net.levels, shape)
    changed = (x + 1 + torch.randint(net.levels - 1, shape)) % net.levels
    return metrics.causality(net.double().eval(), x, changed)


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


def kernel(height, width, own):
    """Offsets (di, dj) that a masked kernel reads; `own`: its own pixel, too (mask B)."""
    places = itertools.product(*(range(-(side // 2), side // 2 + 1) for side in (height, width)))
    return {place for place in places if place < (0, 0) or (own and place == (0, 0))}


def exact_checks(name, make, leaks, layers, less):
    """What must hold of an autoregression, whatever it has learned.

    make     (shape, levels) -> net
    leaks    {what was broken: function of a net that breaks it}; the first of them after training, too
    layers   as of `reach`
    less     {what it lacks: (shape, levels) -> a net that reaches less}
    """
    def built(shape, levels, broken=None):
        set_seed(1)
        net = make(shape, levels)
        if broken:
            leaks[broken](net)
        return net

    grey, colour = ({broken: probe(built((c, side, side), levels, broken), (c, side, side))
                     for broken in (None, *leaks)} for c, side, levels in ((1, 8, 5), (3, 3, 4)))
    share = reach(8, layers)
    set_seed(1)
    checks = [
        Check(f"{name}, grey: largest move of an output at or before the changed pixel", grey[None].leak,
              hi=1e-6, source="0; Eq. 1", controls={broken: grey[broken].leak for broken in leaks}),
        Check(f"{name}, RGB: likewise, at or before the changed colour of a pixel", colour[None].leak,
              hi=1e-6, source="0; Eq. 2", controls={broken: colour[broken].leak for broken in leaks} | {
                  "colours not told apart": probe(_one_colour(built((3, 3, 3), 4)), (3, 3, 3)).leak}),
        Check(f"{name}: share of later pixels of 8 x 8 that a change reaches", grey[None].reached,
              share - 1e-9, share + 1e-9, "counted from the layers' kernels",
              {short: probe(build((1, 8, 8), 5), (1, 8, 8)).reached for short, build in less.items()}),
        Check(f"{name}, RGB: share of a pixel's later colours that a change of a colour reaches",
              _within(colour[None]), 1, 1, "Eq. 2", {"colours drawn apart": _within(
                  probe(_apart(built((3, 3, 3), 4)), (3, 3, 3)))})]
    return checks + _small(name, built, next(iter(leaks)))


def mask_b_first(net):
    """Let the first layer of a net read the pixel itself -> the net: a control."""
    i, j = net.first.padding
    net.first.mask[:, :, i, j] = 1
    return net


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
    return (own[first, later] > metrics.LEAST_MOVE).double().mean().item()


def _small(name, built, leak):
    """All binary images of 3 x 3: probabilities add up to 1, and images are drawn as often as they say."""
    every = torch.tensor(list(itertools.product((0, 1), repeat=9))).view(-1, 1, 3, 3)
    bars = every[(every == every[:, :, :1]).flatten(1).all(1) | (every == every[..., :1]).flatten(1).all(1)]

    def trained(broken=None):
        return built((1, 3, 3), 2, broken).fit(bars, steps=40, seed=1, lr=1e-2)

    def excess(net):
        return net.log_prob(every).double().logsumexp(0).item()

    def frequencies(x):
        code = (x.flatten(1) * 2 ** torch.arange(8, -1, -1)).sum(1)
        return torch.bincount(code, minlength=512).double() / len(x)

    net, n = trained(), 4000
    p, other = (model.log_prob(every).double().exp() for model in (net, built((1, 3, 3), 2)))

    def off(x, p=p):
        return metrics.total_variation(p, frequencies(x))

    ideal = every[torch.multinomial(p, n, replacement=True)]
    by_columns = net.sample(n, [(i, j) for j in range(3) for i in range(3)])
    return [
        Check(f"{name}: log of the sum of p over all binary 3 x 3 images [nats]", excess(net), -1e-4, 1e-4,
              "0", {leak: excess(trained(leak))}),
        Check(f"{name}: TV of {n} drawn 3 x 3 images to their probabilities", off(net.sample(n)), hi=0.07,
              source=f"draws from the table of probabilities give {off(ideal):.3f}",
              controls={"drawn column by column": off(by_columns),
                        "probabilities of an untrained net": off(ideal, other)})]


# ------------------------------------------------------------------------------------------------------ bench

def digits():
    """datasets.digits as levels: train (1400, 1, 8, 8) and test (397, 1, 8, 8), int64, and test's classes."""
    (train, _), (test, classes) = datasets.digits()
    return (16 * train).round().long(), (16 * test).round().long(), classes


def bits(log_p):
    """-log2 p for each pixel of a digit, from log p (n,) in nats: the mean."""
    return -log_p.mean().item() / (64 * math.log(2))


def independent(train, x):
    """log p of digits x if pixels were independent, by counts in train and one more: (n, 1, 8, 8) -> (n,)."""
    counts = F.one_hot(train.flatten(1), 17).sum(0) + 1.0
    log_p = (counts / counts.sum(1, keepdim=True)).log()                                     # (64, 17)
    return log_p[torch.arange(64), x.flatten(1)].sum(1)


def linear(train, x, steps=400):
    """log p of digits x if a pixel's logits were linear in those before it, Adam: (n, 1, 8, 8) -> (n,)."""
    net, before = nn.Linear(64, 64 * 17), torch.ones(64, 64).tril(-1).repeat_interleave(17, 0)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-2, weight_decay=1e-1)

    def log_prob(levels):
        levels = levels.flatten(1)
        logits = F.linear(levels / 16, net.weight * before, net.bias).unflatten(1, (64, 17))
        return logits.log_softmax(2).gather(2, levels.unsqueeze(2)).sum((1, 2))

    alternate((optimizer, lambda: -log_prob(train[torch.randint(len(train), (256,))]).mean(), steps))
    with torch.no_grad():
        return log_prob(x)


@functools.cache
def _ladder():
    """Bits/dim of test digits by the two simplest models."""
    train, test, _ = digits()
    set_seed(0)
    return {"independent pixels": bits(independent(train, test)),
            "linear autoregression": bits(linear(train, test))}


def digit_checks(name, make, steps, best, seed):
    """Train on digits: bits/dim of the test digits, and what 500 draws are worth.

    make  () -> net; best: the bits/dim to reach
    """
    train, test, classes = digits()
    set_seed(seed)
    model = make().fit(train, steps=steps, seed=seed)
    cheat = mask_b_first(make()).fit(train, steps=100, seed=seed, lr=1e-2)
    drawn, log_p = model.sample(N_DRAWS), model.log_prob(test)
    apart = train.flatten(1)[torch.randint(len(train), (N_DRAWS, 64)), torch.arange(64)].view(-1, 1, 8, 8)

    def shares(x):
        return metrics.class_shares(x.flatten(1).float(), test.flatten(1).float(), classes)

    def imbalance(x):
        return metrics.total_variation(shares(x), shares(train))

    one = drawn[:1].expand(N_DRAWS, -1, -1, -1)
    ratio, other = (model.log_prob(x).mean().item() / log_p.mean().item() for x in (drawn, apart))
    return [
        Check(f"{name}, digits: test bits/dim, 17 levels", bits(log_p), 1.5, best,
              f"beforehand; below 1.5 it must be a leak; all levels alike {math.log2(17):.2f}",
              _ladder() | {"mask B first, 100 steps": cheat.bits_per_dim(test)}),
        Check(f"{name}, digits: share of the rarest of 10 classes among {N_DRAWS} draws",
              shares(drawn).min().item(), 0.02, 0.1, "beforehand; judged by the 3 nearest held-out digits",
              {"one digit": shares(one).min().item()}),
        Check(f"{name}, digits: TV of the classes of {N_DRAWS} draws to those of training digits",
              imbalance(drawn), hi=0.15, source="judged alike; 500 training digits give about .05",
              controls={"each pixel for itself": imbalance(apart)}),
        Check(f"{name}, digits: mean -log p of own draws / of test digits", ratio, 0.95, 1.05, "beforehand",
              {"each pixel for itself": other})]
