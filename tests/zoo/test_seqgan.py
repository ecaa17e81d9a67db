"""SeqGAN and its language model: what they refuse, what a seed fixes, and where rewards go astray."""
import math

import pytest
import torch

from runs.files import set_seed
from zoo import core, networks, seqgan, sheet, strings, views
from zoo.seqgan import Discriminator, SeqGAN, action_values, policy_loss
from zoo.language_model import Language


class Marks:
    """A discriminator that says how large the last token is: what each end of a string is, is then seen."""

    def chance(self, y):
        return y[:, -1].float()


def small(**options):
    set_seed(5)
    return SeqGAN(Language(4, 5, 6, 6), Discriminator(4, (1, 2), 4, 4), copies=3, batch=8, **options)


DATA = torch.randint(4, (40, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("row", [0, 2])
def test_a_language_model_weighs_and_draws_strings(row):
    set_seed(0)
    net = Language(3, 6, 8, 8, row=row, dropout=0.3)
    y = net.sample(7)
    assert isinstance(net, core.Sampler) and isinstance(net, core.Density) and net.exact
    assert y.shape == (7, 6) and y.dtype == torch.int64 and 0 <= y.min() <= y.max() <= 2
    assert net(y).shape == (7, 6, 3) and net.log_prob(y).shape == (7,)
    assert torch.equal(net.train().log_prob(y), net.log_prob(y))                    # no dropout


@pytest.mark.parametrize("row", [0, 2])
def test_no_token_is_told_itself_or_a_later_one(row):
    set_seed(0)
    net, y = Language(3, 6, 8, 8, row=row).eval(), torch.zeros(1, 6, dtype=torch.int64)
    for t in range(6):
        changed = y.clone()
        changed[0, t] = 1
        moves = (net(changed) - net(y)).abs().amax(2)[0]
        assert moves[:t + 1].max() == 0 and (moves[t + 1:] > 0).all()


def test_a_picture_in_rows_is_told_the_token_above_and_its_place():
    set_seed(0)
    net = Language(3, 6, 8, 8, row=3).eval()
    inputs = net._inputs(torch.tensor([[0, 1, 2, 1, 0]]))[0]                        # of all six steps
    expected = (net.before.weight[1] + net.above.weight[2] + net.rows.weight[1] + net.columns.weight[2])
    assert torch.allclose(net._inputs(torch.tensor([[0, 1, 2, 0, 1]]))[0, 5], expected) and len(inputs) == 6
    first = net.before.weight[3] + net.above.weight[3] + net.rows.weight[0] + net.columns.weight[0]
    assert torch.allclose(inputs[0], first)


def test_bad_strings_and_settings_are_refused_in_one_line():
    net = Language(3, 4)
    for y, message in ((torch.zeros(2, 3, dtype=torch.int64), r"integers \(n, 4\)"),
                       (torch.zeros(2, 4), r"integers \(n, 4\)"),
                       (torch.full((2, 4), 3), "from 0 to 2; they are 3"),
                       (torch.full((2, 4), -1), "from 0 to 2; they are -1")):
        with pytest.raises(ValueError, match=message) as error:
            net.log_prob(y)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="7 tokens cannot be laid out in rows of 2"):
        Language(3, 7, row=2)
    for options in ({"k": 0}, {"copies": 0}, {"average": 1.0}):
        with pytest.raises(ValueError, match="k and copies must be at least 1"):
            SeqGAN(net, Discriminator(3, (1, 2)), **options)


def test_a_prefix_stays_and_what_follows_is_drawn_as_from_the_whole_string():
    set_seed(0)
    net = strings.oracle(5, 6, 8)
    prefix = torch.tensor([[0, 1, 2]]).repeat(20_000, 1)
    y = net.complete(prefix)
    assert torch.equal(y[:, :3], prefix)
    share = net(y[:1])[0, 3].softmax(0)
    assert (torch.bincount(y[:, 3], minlength=5) / len(y) - share).abs().max() < 0.015
    assert torch.equal(net.complete(y), y)


def test_a_low_temperature_draws_what_its_log_prob_says():
    net = strings.oracle(5, 6, 8)
    set_seed(0)
    y = net.sample(5000, 0.7)
    share = (net(y[:1])[0, 0] / 0.7).softmax(0)
    assert (torch.bincount(y[:, 0], minlength=5) / len(y) - share).abs().max() < 0.03
    assert net.log_prob(y, 0.7).mean() > net.log_prob(y).mean()


def test_an_oracle_is_the_same_for_a_seed_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = strings.oracle(seed=1), strings.oracle(seed=1), strings.oracle(seed=2)
    assert torch.rand(1) == expected
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.std().item() == pytest.approx(1, abs=0.1)
    assert not any(p.requires_grad for p in first.parameters())


def test_an_lstm_has_one_bias_that_is_learned():
    net = Language(4, 5, 6, 6)
    net.fit(DATA, steps=3)
    assert net.lstm.bias_hh_l0.abs().max() == 0 and net.lstm.bias_ih_l0.abs().max() > 0
    assert net.n_parameters == networks.n_parameters(net) - 24


def test_fit_keeps_the_weights_that_held_out_strings_like_best():
    def fit(steps, **options):
        set_seed(0)
        return Language(4, 5, 16, 16).fit(DATA[:20], steps=steps, lr=3e-2, **options)

    held_out = DATA[20:]
    kept = fit(200, held_out=held_out, every=10).log_prob(held_out).mean()
    seen = [fit(steps).log_prob(held_out).mean() for steps in (10, 20, 30, 200)]
    assert kept >= max(seen) - 1e-4 and kept > seen[-1] + 1


def test_rollouts_keep_the_beginnings_and_differ_afterwards():
    set_seed(0)
    net, y = Language(50, 6), torch.randint(50, (4, 6))
    ends = net.rollouts(y, 7)
    assert ends.shape == (5, 7, 4, 6)
    for t in range(5):
        assert (ends[t, :, :, :t + 1] == y[:, :t + 1]).all()
        assert (ends[t, :, :, t + 1] != y[:, t + 1]).float().mean() > 0.5


def test_q_is_the_mean_of_a_strings_own_ends_and_the_last_ones_is_d():
    """A policy that always ends a string on its first token: D's mark is then the string's own."""
    class Echo:
        def rollouts(self, y, copies):
            return y[:, :1].expand(*y.shape).expand(y.shape[1] - 1, copies, *y.shape)

    y = torch.tensor([[1, 0, 7], [2, 0, 8], [3, 0, 9], [4, 0, 5]])
    expected = torch.tensor([[1.0, 1, 7], [2, 2, 8], [3, 3, 9], [4, 4, 5]])
    for copies in (1, 2, 3):
        assert torch.equal(action_values(y, Echo(), Marks(), copies), expected)


def test_the_loss_of_the_policy_sums_over_tokens_and_means_over_strings():
    log_probs = torch.zeros(2, 3, requires_grad=True)
    q = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    (slope,) = torch.autograd.grad(policy_loss(log_probs, q), log_probs)
    assert torch.equal(slope, -q / 2)


def test_rewards_are_of_d_without_dropout_and_leave_no_gradient():
    model = small()
    y = model.sample(8)
    model.discriminator.train()
    assert torch.equal(model.discriminator.chance(y), model.discriminator.chance(y))
    model.discriminator_loss(DATA[:8])
    assert model.discriminator.training                       # dropout is on where D learns
    q = model.values(y)
    assert q.shape == (8, 5) and not q.requires_grad and 0 < q.min() <= q.max() < 1


def test_the_policy_follows_g_as_a_running_mean():
    model = small(average=0.8, lr=0.1)
    before = model.language.head.weight.detach().clone()
    model.fit(DATA, steps=1, first=1)
    now = model.language.head.weight
    assert not torch.equal(before, now)
    assert torch.allclose(model.policy.head.weight, 0.8 * before + 0.2 * now, atol=1e-6)


def test_a_constant_reward_less_its_mean_teaches_nothing():
    model = small(baseline=True)
    model.values = lambda y: torch.full(y.shape, 2.0)
    before = [p.clone() for p in model.language.parameters()]
    model.fit(DATA, steps=2, first=1)
    assert all(map(torch.equal, before, model.language.parameters()))


def test_a_seed_fixes_a_run():
    def run(seed):
        model = small().fit(DATA, steps=2, first=2, seed=seed)
        set_seed(5)
        return model.history, model.sample(10)

    assert run(0)[0] == run(0)[0] and torch.equal(run(0)[1], run(0)[1]) and run(0)[0] != run(1)[0]


def test_a_short_run_on_images_makes_images_and_no_density(images):
    model = seqgan.animals(images, fit_steps=2, first=1, steps=1)
    x, row = model.sample(3), sheet._density(model, images)
    assert x.shape == (3, 3, 8, 8) and x.abs().max() < 1 and torch.equal(x[:, 0], x[:, 1])
    assert model.view == views.name((1, 8, 8), 16) and row["level_bits"] > 0 and row["log_p"] is None
    assert model.bits_per_dim(images) < 4.5 and len(model.history) == 1 and model.n_parameters > 10_000
    log_p = model.model.language.log_prob(views.to_strings(images)).mean().item()
    assert model.bits_per_dim(images) == pytest.approx(-log_p / 64 / math.log(2))
