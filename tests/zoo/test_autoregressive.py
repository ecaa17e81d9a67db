"""PixelCNN and PixelRNN: causality and reach by probes, probabilities by enumeration, digits."""
import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from inference.measures import to_side
from runs.files import set_seed
from zoo import datasets, metrics, views
from zoo.autoregressive import MaskedConv2d
from zoo.pixelcnn import PixelCNN
from zoo.pixelrnn import DiagonalBlock, LineLSTM, PixelRNN, RowBlock

NETS = {"cnn": PixelCNN, "row": partial(PixelRNN, RowBlock),
        "diagonal": partial(PixelRNN, DiagonalBlock)}


def small(name, shape, levels, width=12, **options):
    set_seed(1)
    return NETS[name](shape, levels, width=width, dropout=0.0, **options)


def probe(net):
    """metrics.causality of the logits of a net at a random image."""
    x = torch.randint(net.levels, net.shape)
    changed = (x + 1 + torch.randint(net.levels - 1, net.shape)) % net.levels
    return metrics.causality(net.double().eval(), x, changed)


def kernel(height, width, own):
    """Offsets (di, dj) that a masked kernel reads; own: its own pixel too (mask B)."""
    places = itertools.product(*(range(-(side // 2), side // 2 + 1) for side in (height, width)))
    return {place for place in places if place < (0, 0) or (own and place == (0, 0))}


def reach(layers, side=8):
    """Fraction of pairs (pixel, later pixel) of a square in which the first influences the second.

    layers: the offsets that each layer reads, the first layer first. Counted without a network.
    """
    pairs = 0
    for i, j in itertools.product(range(side), repeat=2):
        seen = {(i, j)}
        for offsets in reversed(layers):
            seen = {(a + di, b + dj) for a, b in seen for di, dj in offsets
                    if 0 <= a + di < side and 0 <= b + dj < side}
        pairs += len(seen - {(i, j)})
    return pairs / math.comb(side**2, 2)


TRIANGLE = {(-k, j) for k in range(8) for j in range(-k, k + 1)}


@pytest.mark.parametrize("name, options, layers", [
    ("cnn", {}, [kernel(7, 7, False)] + 4 * [kernel(3, 3, True)]),
    ("cnn", {"n_blocks": 2}, [kernel(7, 7, False)] + 2 * [kernel(3, 3, True)]),
    ("row", {}, [kernel(7, 7, False)] + 2 * [{(0, -1), (0, 0)}, TRIANGLE]),
    ("diagonal", {}, [kernel(3, 15, False), kernel(15, 15, True)])])
def test_grey_pixels_depend_on_earlier_ones_within_reach(name, options, layers):
    found = probe(small(name, (1, 8, 8), 5, **options))
    assert found.leak < 1e-6 and found.reached == pytest.approx(reach(layers), abs=1e-9)


def test_diagonal_lstm_behind_a_small_kernel_misses_some_pixels():
    assert probe(small("diagonal", (1, 8, 8), 5, size=(7, 7))).reached < 1


@pytest.mark.parametrize("name", NETS)
def test_colours_depend_on_earlier_pixels_and_earlier_colours(name):
    found = probe(small(name, (3, 3, 3), 4))
    own = found.moves.view(9, 3, 9, 3).diagonal(dim1=0, dim2=2)          # (changed, moved, pixel)
    first, later = torch.triu_indices(3, 3, 1)
    assert found.leak < 1e-6 and (own[first, later] > metrics.LEAST_MOVE).all()


def mask_b_first(net):
    i, j = net.first.padding
    net.first.mask[:, :, i, j] = 1


def not_moved_down(net):
    for block in net.blocks:
        block.down = lambda states: states


def one_colour(net):
    for m in net.modules():
        if isinstance(m, MaskedConv2d) and m is not net.first:
            m.mask[:, :, m.padding[0], m.padding[1]] = 1


@pytest.mark.parametrize("name, shape, broken", [
    ("cnn", (1, 8, 8), mask_b_first), ("row", (3, 3, 3), one_colour),
    ("diagonal", (1, 8, 8), not_moved_down)])
def test_the_probe_finds_leaks(name, shape, broken):
    net = small(name, shape, 5)
    broken(net)
    assert probe(net).leak > 1e-4


@pytest.mark.parametrize("name", NETS)
def test_probabilities_sum_to_one_and_samples_follow_them(name):
    """All 512 binary images of 3 x 3, after training on bars."""
    every = torch.tensor(list(itertools.product((0, 1), repeat=9))).view(-1, 1, 3, 3)
    rows, columns = every == every[:, :, :, :1], every == every[:, :, :1]
    bars = every[rows.flatten(1).all(1) | columns.flatten(1).all(1)]
    net = small(name, (1, 3, 3), 2, width=6, n_blocks=1).fit(bars, 60, lr=1e-2)
    log_p = net.log_prob(every).double()
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-4)
    codes = (net.sample(4000).flatten(1) * 2 ** torch.arange(8, -1, -1)).sum(1)
    frequencies = torch.bincount(codes, minlength=512).double() / 4000
    assert metrics.total_variation(log_p.exp(), frequencies) < 0.07      # exact draws: .035


def test_pixels_of_intensity_zero_differ_from_the_border():
    logits = small("cnn", (1, 6, 6), 5)(torch.full((1, 1, 6, 6), 2))     # level 2 is intensity 0
    assert not torch.allclose(logits[..., 0, 0], logits[..., 5, 5])


def test_line_lstm_with_one_tap_is_torchs_lstm():
    set_seed(0)
    ours, theirs = LineLSTM(4, 0, 0, 1), nn.LSTM(16, 4)
    order = torch.tensor([2, 1, 3, 0])                       # torch: i, f, g, o; Eq. 3: o, f, i, g
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.eye(16).view(4, 4, 16)[order].flatten(0, 1))
        theirs.weight_hh_l0.copy_(ours.state[0].T.reshape(4, 4, 4)[order].flatten(0, 1))
        theirs.bias_hh_l0.zero_()
        theirs.bias_ih_l0.zero_()
    gates = torch.randn(1, 16, 7, 5)                         # 7 lines of 5 places
    expected = theirs(gates[0].movedim(0, -1))[0]
    assert torch.allclose(ours(gates)[0].movedim(0, -1), expected, atol=1e-6)


def test_levels_are_bins_and_strings_their_rows(images):
    levels = views.to_levels(images, (3, 16, 16), 8)
    assert levels.min() >= 0 and levels.max() <= 7
    assert (views.from_levels(levels, 8) - images).abs().max() <= 1 / 8 + 1e-6
    tokens = views.to_strings(images)
    assert tokens.shape == (len(images), 64) and tokens.dtype == torch.int64
    grey = to_side(images, 8).mean(1)
    assert (views.from_strings(tokens)[:, 0] - grey).abs().max() <= 1 / 16 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name, steps, best", [
    ("cnn", 1200, 1.90), ("row", 900, 1.95), ("diagonal", 800, 1.90)])
def test_digits_are_learned(name, steps, best):
    """Test bits/dim at 17 levels: independent pixels 2.43, a linear autoregression 2.07; below 1.5
    something leaks. Draws have the classes of digits, and cost as many bits as test digits."""
    (train, _), (test, classes) = datasets.digits()
    train, test = ((16 * x).round().long() for x in (train, test))
    set_seed(0)
    net = NETS[name]((1, 8, 8), 17).fit(train, steps)
    drawn, log_p = net.sample(500), net.log_prob(test).mean()
    assert 1.5 < -log_p.item() / (64 * math.log(2)) < best
    assert 0.95 < (net.log_prob(drawn).mean() / log_p).item() < 1.05

    def shares(x):
        return metrics.class_shares(x.flatten(1).float(), test.flatten(1).float(), classes)

    assert shares(drawn).min() >= 0.02
    assert metrics.total_variation(shares(drawn), shares(train)) <= 0.15
