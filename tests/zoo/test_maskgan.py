"""MaskGAN: what it refuses, what a seed fixes, and the mistakes that such a game invites."""
import pytest
import torch
from torch import nn

from runs.files import set_seed
from zoo import datasets, fillers, maskgan
from zoo.bars import maskgan as bars

HOLE = torch.tensor([False, True, True, False, True, False])


def holes(n):
    return HOLE.expand(n, 6)


@pytest.fixture
def strings():
    return datasets.markov_source(0, 4, 6, 0.3).sample(40, torch.Generator().manual_seed(0))


def model(**options):
    set_seed(0)
    return maskgan.MaskGAN(4, 6, holes, hidden=8, batch=10, **options)


def weights(net):
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def test_discounts_and_clips_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="discount must be within 0 and 1, clip"):
        model(discount=1.1)
    with pytest.raises(ValueError, match="clip positive; they are 0.89, 0.0"):
        model(clip=0.0)


@pytest.mark.parametrize("x, missing, message", [
    (torch.zeros(2, 6), holes(2), "integers"), (torch.full((2, 6), 4), holes(2), "from 0 to 3"),
    (torch.zeros(2, 5, dtype=torch.int64), holes(2), "6 tokens"),
    (torch.zeros(2, 6, dtype=torch.int64), holes(2).long(), "bool")])
def test_what_is_no_string_or_no_hole_is_refused(x, missing, message):
    with pytest.raises(ValueError, match=message):
        model().generator.fill(x, missing)


def test_a_hole_in_nothing_is_refused(strings):
    player = maskgan.MaskGAN(4, 6, lambda n: torch.zeros(n, 6, dtype=torch.bool), hidden=8)
    with pytest.raises(ValueError, match="no token is missing"):
        player.imitate(strings, steps=1, alone=0)


def test_a_source_with_impossible_steps_is_refused():
    with pytest.raises(ValueError, match="a probability is 0"):
        datasets.MarkovSource(torch.ones(2) / 2, torch.eye(2), 5)


def test_a_seed_fixes_a_run(strings):
    def run(seed):
        set_seed(seed)
        player = maskgan.MaskGAN(4, 6, holes, hidden=8, dropout=0.2).imitate(strings, steps=2)
        return player.play(strings, steps=2).generator.fill(strings, holes(40))

    assert run(0).shape == (40, 6) and torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_answers_change_no_fill_and_known_tokens_stay(strings):
    generator = model().generator
    others = torch.where(HOLE, (strings + 1) % 4, strings)

    def fill(x):
        set_seed(3)
        return generator.fill(x, holes(40))

    filled = fill(strings)
    assert torch.equal(filled, fill(others)) and torch.equal(filled[:, ~HOLE], strings[:, ~HOLE])
    assert not torch.equal(filled[:, HOLE], strings[:, HOLE])


def test_a_fill_reads_what_was_drawn_and_not_the_answers(strings, monkeypatch):
    generator, read = model().generator, []
    monkeypatch.setattr(generator, "decode", lambda x, *rest, decode=generator.decode: (
        read.append(x), decode(x, *rest))[1])
    filled = generator.fill(strings, holes(40))
    assert torch.equal(torch.cat(read, 1), fillers.before(filled, 4))


def test_the_game_scores_the_strings_that_were_drawn(strings, monkeypatch):
    player, scored, drawn = model(), [], []
    monkeypatch.setattr(player.generator, "fill", lambda *args, fill=player.generator.fill: (
        drawn.append(fill(*args)), drawn[-1])[1])
    monkeypatch.setattr(player.generator, "log_probs", lambda x, *rest, p=player.generator.log_probs: (
        scored.append(x), p(x, *rest))[1])
    player.play(strings, steps=1)
    assert len(scored) == 1 and torch.equal(scored[0], drawn[0])


def test_the_discriminator_reads_what_is_around_the_hole(strings):
    player, changed = model(), strings.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 4                  # known, and after the tokens that it judges
    first, second = (player.judge(x, holes(40)) for x in (strings, changed))
    assert (first - second)[:, :5].abs().min() > 0


def test_each_player_moves_its_own_weights_alone(strings):
    player = model()
    nets = [player.generator, player.discriminator, player.critic]
    was = [weights(net) for net in nets]
    player.prepare(strings, steps=4)
    same = [torch.equal(old, weights(net)) for old, net in zip(was, nets, strict=True)]
    assert same == [True, False, False]
    player.play(strings, steps=1)
    assert not torch.equal(was[0], weights(player.generator))
    assert [len(losses) for losses in player.history] == [2] * 4 + [3]


def test_likelihood_moves_the_generator_alone_and_leaves_no_dropout(strings):
    player = model(dropout=0.5)
    was = weights(player.discriminator), weights(player.critic)
    player.imitate(strings, steps=2)
    assert torch.equal(was[0], weights(player.discriminator)) and torch.equal(was[1], weights(player.critic))
    player.prepare(strings, steps=4).play(strings, steps=1)
    assert not any(net.training for net in (player.generator, player.discriminator, player.critic))
    first, second = (player.generator.log_probs(strings, holes(40)) for _ in range(2))
    assert torch.equal(first, second)


def test_posteriors_look_at_no_missing_token_and_fills_keep_the_known():
    source = datasets.markov_source(0, 4, 6, 0.3)
    x = source.sample(30, torch.Generator().manual_seed(0))
    others = torch.where(HOLE, (x + 1) % 4, x)
    assert torch.equal(source.posterior(x, holes(30)), source.posterior(others, holes(30)))
    filled = source.fill(x, holes(30), torch.Generator().manual_seed(0))
    assert torch.equal(filled[:, ~HOLE], x[:, ~HOLE]) and not torch.equal(filled, x)


def test_a_source_draws_as_often_as_it_says():
    source = datasets.markov_source(0, 2, 3, 1.0)
    x = source.sample(40_000, torch.Generator().manual_seed(0))
    share = torch.bincount((x * torch.tensor([4, 2, 1])).sum(1), minlength=8).double() / len(x)
    every = torch.cartesian_prod(*[torch.arange(2)] * 3)
    p = source.log_prob(every).exp()
    assert p.sum().item() == pytest.approx(1) and (share - p).abs().max() < 0.01


def test_auc_of_the_same_is_a_half_and_of_parted_ones_1():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    assert bars.auc(x, x) == pytest.approx(0.5, abs=1e-3)
    assert bars.auc(x + 20, x) == 1.0 and bars.auc(x - 20, x) == 0.0


def test_inpainting_draws_the_middle_rows_alone(images):
    painter = maskgan.animals(images, steps=3, rounds=4)
    filled, shown = painter.fill(images), painter.masked(images)
    assert filled.shape == shown.shape == (6, 3, 8, 8) and filled.abs().max() < 1
    assert (shown[:, :, 2:6] == 0).all() and torch.equal(filled[:, :, :2], shown[:, :, :2])
    assert torch.equal(filled[:, :, 6:], shown[:, :, 6:]) and not hasattr(painter, "sample")
    assert 2 < painter.bits_per_dim(images) < 6 and painter.n_parameters > 1000
    assert [len(losses) for losses in painter.history] == [1] * 3 + [2] * 4 + [3] * 4
    assert painter.view == "half of 8 x 8, 16 greys"
