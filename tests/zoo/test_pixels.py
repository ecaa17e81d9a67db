"""PixelCNN and PixelRNN: shapes, what they refuse, what a seed fixes, and that whole runs on images work."""
import itertools

import pytest
import torch

from inference.measures import to_side
from runs.files import set_seed
from zoo import core, measure, pixelcnn, pixelrnn, pixels, sheet, views
from zoo.pixelrnn import DiagonalBlock, LineLSTM, PixelRNN, RowBlock, skew, unskew

NETS = {
    "cnn": lambda *sizes: pixelcnn.PixelCNN(*sizes, width=6, n_blocks=1),
    "row": lambda *sizes: PixelRNN(RowBlock, *sizes, width=6, n_blocks=1),
    "diagonal": lambda *sizes: PixelRNN(DiagonalBlock, *sizes, width=6, n_blocks=1),
}


@pytest.fixture(params=NETS)
def make(request):
    return NETS[request.param]


@pytest.mark.parametrize("shape", [(1, 5, 3), (3, 2, 4)])
def test_a_net_weighs_and_draws_images_of_levels(make, shape):
    set_seed(0)
    net = make(shape, 4)
    x = torch.randint(4, (7, *shape))
    assert net(x).shape == (7, shape[0], 4, *shape[1:]) and net.log_probs(x).shape == x.shape
    assert isinstance(net, core.Sampler) and isinstance(net, core.Density) and net.exact
    assert net.log_prob(x).shape == (7,) and torch.equal(net.log_prob(x), net.log_prob(x))      # no dropout
    drawn = net.sample(9)
    assert drawn.shape == (9, *shape) and drawn.dtype == torch.int64
    assert 0 <= drawn.min() <= drawn.max() <= 3
    assert net.bits_per_dim(x) == pytest.approx(2, abs=0.5)                 # an untrained net knows nothing


def test_bad_sizes_and_levels_are_refused_in_one_line(make):
    net = make((3, 4, 4), 4)
    for x, message in ((torch.zeros(2, 1, 4, 4, dtype=torch.int64), "levels must be integers"),
                       (torch.zeros(2, 3, 4, 4), "levels must be integers"),
                       (torch.full((2, 3, 4, 4), 4), "levels must be from 0 to 3"),
                       (torch.full((2, 3, 4, 4), -1), "levels must be from 0 to 3")):
        with pytest.raises(ValueError, match=message) as error:
            net.log_prob(x)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="must be odd; they are 4 and 7"):
        pixels.PixelModel((1, 4, 4), 2, 4, [], (4, 7))
    with pytest.raises(ValueError, match="must differ in every value"):
        measure.causality(net, torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="16 features cannot be divided among 3 colours"):
        pixels.colours_of(16, 3)


def test_a_seed_fixes_a_run(make):
    data = torch.randint(3, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0))

    def run(seed):
        set_seed(5)
        net = make((1, 4, 4), 3).fit(data, steps=3, seed=seed)
        set_seed(5)
        return net.history, net.sample(20)

    assert run(0)[0] == run(0)[0] and torch.equal(run(0)[1], run(0)[1])
    assert run(0)[0] != run(1)[0]


def test_what_lies_beneath_a_mask_never_matters(make):
    net, x = make((3, 4, 4), 4), torch.randint(4, (5, 3, 4, 4))
    before = net.log_prob(x)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, pixels.MaskedConv2d):
                m.weight += 100 * (1 - m.mask)
    assert torch.equal(net.log_prob(x), before)


def test_a_pixel_of_intensity_0_is_not_beyond_the_border(make):
    set_seed(0)
    logits = make((1, 6, 6), 5)(torch.full((1, 1, 6, 6), 2))         # the middle level: 0 for the first layer
    assert not torch.allclose(logits[..., 0, 0], logits[..., 5, 5])


def test_skewing_turns_diagonals_into_lines_and_back():
    x = torch.arange(1, 13).view(1, 1, 3, 4)
    lines = skew(x)
    assert lines.shape == (1, 1, 6, 3) and lines.count_nonzero() == 12
    for i, j in itertools.product(range(3), range(4)):
        assert lines[0, 0, i + j, i] == x[0, 0, i, j]
    assert torch.equal(unskew(lines), x) and torch.equal(unskew(skew(x.mT)), x.mT)


def test_lines_of_one_place_are_an_lstm():
    """With K_ss that reads its own place alone, each place is a torch.nn.LSTM without its input weights."""
    set_seed(0)
    ours, theirs = LineLSTM(4, 0, 0), torch.nn.LSTM(16, 4)
    order = torch.tensor([2, 1, 3, 0])                       # torch has i, f, g, o; Eq. 3 has o, f, i, g
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.eye(16).view(4, 4, 16)[order].flatten(0, 1))
        theirs.weight_hh_l0.copy_(ours.state[0].T.reshape(4, 4, 4)[order].flatten(0, 1))
        theirs.bias_hh_l0.zero_()
        theirs.bias_ih_l0.zero_()
    gates = torch.randn(1, 16, 7, 5)                         # 7 lines of 5 places
    assert torch.allclose(ours(gates)[0].movedim(0, -1), theirs(gates[0].movedim(0, -1))[0], atol=1e-6)


def test_causality_finds_what_was_put_there():
    """An output that is the sum of all values before it, and then one that is also told the next value."""
    def told(shift):
        def outputs(x):
            values = x.movedim(1, -1).flatten(1).double()
            sums = (values @ torch.ones(12, 12, dtype=torch.double).triu(shift)).unflatten(1, (2, 3, 2))
            return sums.movedim(-1, 1).unsqueeze(2)
        return outputs

    x = torch.zeros(2, 2, 3, dtype=torch.int64)
    assert measure.causality(told(1), x, x + 1)[:2] == (0.0, 1.0)
    assert measure.causality(told(0), x, x + 1).leak == 1.0
    assert measure.causality(told(2), x, x + 1).reached == pytest.approx(55 / 66)


@pytest.mark.parametrize("module", [pixelcnn, pixelrnn])
def test_a_short_run_on_images_makes_images_and_no_density(module, images):
    model = module.animals(images, steps=2)
    said = sheet._density(model, images)
    model.model.shape = (model.model.shape[0], 4, 4)         # smaller ones are drawn sooner
    x = model.sample(2)
    assert x.shape == (2, 3, 4, 4) and x.abs().max() < 1 and len(model.model.history) == 2
    assert not hasattr(model, "log_prob") and said["log_p"] is None and said["bits"] is None
    assert model.view in ("16 x 16, 8 levels", "8 x 8, 16 greys")
    assert said["level_bits"] < 4 and model.n_parameters > 1000


def test_levels_are_bins_and_samples_their_centres(images):
    model = pixels.Thumbnails(NETS["cnn"]((3, 16, 16), 8))
    levels = model.levels(images)
    assert levels.min() >= 0 and levels.max() <= 7
    assert ((2 * levels + 1) / 8 - 1 - images).abs().max() <= 1 / 8 + 1e-6
    grey = pixels.Thumbnails(NETS["cnn"]((1, 8, 8), 16))
    levels = grey.levels(images)
    assert levels.shape == (len(images), 1, 8, 8) and levels.max() <= 15 and grey.view == "8 x 8, 16 greys"
    assert torch.equal(levels, grey.levels(images.flip(1)))            # whatever the colours
    assert grey.sample(2).shape == (2, 3, 8, 8)


def test_images_become_strings_row_by_row_and_come_back(images):
    tokens = views.to_strings(images)
    assert tokens.shape == (len(images), 64) and tokens.dtype == torch.int64
    small = to_side(images, 8).mean(1)
    assert (views.from_strings(tokens)[:, 0] - small).abs().max() <= 1 / 16 + 1e-6       # half a bin
    both = views.to_strings(images, mirrored=True)
    assert torch.equal(both[:len(images)], tokens)
    assert torch.equal(both[len(images):].view(-1, 8, 8).flip(2).flatten(1), tokens)
