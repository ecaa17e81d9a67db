"""SeqGAN and its language model: enumeration of all strings of three tokens, and an oracle."""
import copy
import itertools
from typing import NamedTuple

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from runs.files import set_seed
from zoo import metrics, seqgan
from zoo.language_model import Language
from zoo.seqgan import Discriminator, SeqGAN, action_values, policy_loss

EVERY = torch.tensor(list(itertools.product(range(3), repeat=3)))        # all strings of 3 tokens


@pytest.fixture
def players():
    """A language model with unequal probabilities on EVERY, and a confident discriminator."""
    set_seed(1)
    g = Language(3, 3, 4, 4, dropout=0.3)
    d = Discriminator(3, (1, 2, 3), filters=8, width=8, dropout=0.5)
    with torch.no_grad():
        for p in g.parameters():
            p *= 2.5
        d.head[1].weight *= 12
    return g.eval(), d.eval()


@pytest.mark.parametrize("row", [0, 2])
def test_tokens_depend_on_all_earlier_tokens_only(row):
    set_seed(0)
    net, y = Language(3, 6, 8, 8, row=row).eval(), torch.zeros(1, 6, dtype=torch.int64)
    for t in range(6):
        changed = y.clone()
        changed[0, t] = 1
        moves = (net(changed) - net(y)).abs().amax(2)[0]
        assert moves[:t + 1].max() == 0 and (moves[t + 1:] > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_and_completions_follow_the_probabilities(players, temperature):
    """Total variation of 20,000 exact draws is about .01."""
    g, n = players[0], 20_000
    p = g.train().log_prob(EVERY, temperature).exp()                     # without dropout

    def distance(y):
        codes = (y * torch.tensor([9, 3, 1])).sum(1)
        return metrics.total_variation(p, torch.bincount(codes, minlength=27) / n)

    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = g.sample(n, temperature)
    completed = g.complete(drawn[:, :1], temperature)
    assert distance(drawn) < 0.02 and distance(completed) < 0.02
    assert torch.equal(completed[:, 0], drawn[:, 0])
    assert distance(g.sample(n, 1.7 - temperature)) > 0.05               # the other temperature


def test_action_values_agree_with_enumeration(players):
    """Largest error over 12 prefixes, in standard errors of the estimate; last tokens have D."""
    (g, d), copies = players, 300
    p, probability = g.log_prob(EVERY).exp().double(), d.probability(EVERY).double()
    set_seed(3)
    d.train()                                                            # Q must not use dropout
    q = action_values(EVERY, g, d, copies).double()
    assert torch.allclose(q[:, 2], probability, atol=1e-6)
    for t in (1, 2):
        same = (EVERY[:, None, :t] == EVERY[None, :, :t]).all(2).double()         # (27, 27)
        weight = same * p / (same * p).sum(1, keepdim=True)
        mean, square = weight @ probability, weight @ probability.square()
        standard_error = ((square - mean.square()) / (copies * same.sum(1))).sqrt()
        error = same @ q[:, t - 1] / same.sum(1) - mean
        assert (error / standard_error).abs().max() < 3


def slope(value, net):
    return parameters_to_vector(torch.autograd.grad(value, [*net.parameters()]))


def test_policy_gradient_is_that_of_the_expected_reward(players):
    """Against the slope of sum_Y p(Y) D(Y); the baseline keeps the mean and lowers the variance."""
    (g, d), repeats = players, 24
    truth = slope((g.log_probs(EVERY).sum(1).exp() * d.probability(EVERY)).sum(), g)
    model = SeqGAN(g, d, batch=128)

    def without_baseline():
        y = g.sample(model.batch)
        return policy_loss(g.log_probs(y), action_values(y, g, d))

    def gradients(loss):
        set_seed(4)
        return torch.stack([-slope(loss(), g) for _ in range(repeats)])

    found, plain = gradients(model.generator_loss), gradients(without_baseline)
    for each in (found, plain):
        standard_error = (each.var(0) / repeats).sum().sqrt()
        assert (each.mean(0) - truth).norm() < 3 * standard_error
    assert found.var(0).sum() < 0.8 * plain.var(0).sum()


def test_constant_rewards_give_no_gradient(players, monkeypatch):
    monkeypatch.setattr(seqgan, "action_values", lambda y, *rest: torch.full(y.shape, 2.0))
    before = parameters_to_vector(players[0].parameters())
    model = SeqGAN(*players, batch=8).fit(EVERY, 2, first=1)
    assert torch.equal(before, parameters_to_vector(model.language.parameters()))


COLD = 0.7                       # temperature of the baseline
GAMES = 3                        # of each kind; single results vary by .05 nats


class Report(NamedTuple):
    """A language model against the oracle, nats per token."""
    oracle: float                # NLL_oracle: -log oracle of strings of G
    test: float                  # NLL_test: -log G of held-out strings of the oracle
    reverse: float               # KL(G || oracle)
    forward: float               # KL(oracle || G)


def report(g, oracle, test, temperature=1.0):
    set_seed(99)
    y = g.sample(20_000, temperature)
    p, o, of_test = g.log_prob(y, temperature), oracle.log_prob(y), g.log_prob(test, temperature)
    values = -o.mean(), -of_test.mean(), (p - o).mean(), (oracle.log_prob(test) - of_test).mean()
    return Report(*(value.item() / test.shape[1] for value in values))


@pytest.fixture(scope="module")
def oracle_games():
    """Reports of maximum likelihood (also at COLD), SeqGAN, shuffled rewards; accuracy of D.

    The oracle is Yu et al.'s, smaller: an LSTM with weights from N(0, 1), 100 tokens, strings of
    12. G is narrower. On 1000 strings instead of 20,000, D overfits and its rewards are noise.
    """
    set_seed(0)
    oracle = Language(100, 12).requires_grad_(False)
    for p in oracle.parameters():
        p.normal_()
    oracle.lstm.bias_hh_l0.zero_()
    train, test = oracle.sample(20_000), oracle.sample(10_000)
    mle = Language(100, 12, hidden=8).fit(train, 1000, batch=128)

    def play(game):
        set_seed(game)
        model = SeqGAN(copy.deepcopy(mle), Discriminator(100), k=2, lr=2e-3, lr_d=2e-3, batch=512)
        return model.fit(train, 200, first=300)

    def mean(games):
        reports = [report(model.language, oracle, test) for model in games]
        return Report(*torch.tensor(reports).mean(0).tolist())

    games = [play(game) for game in range(GAMES)]
    d, drawn = games[0].discriminator.eval(), games[0].sample(len(test))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        accuracy = metrics.accuracy(d(test), d(drawn))
        patch.setattr(seqgan, "action_values", lambda y, *rest: (
            action_values(y, *rest)[torch.randperm(len(y))]))
        with torch.enable_grad():
            shuffled = [play(game) for game in range(GAMES)]
    found = {"MLE": report(mle, oracle, test), "cold": report(mle, oracle, test, COLD),
             "SeqGAN": mean(games), "shuffled": mean(shuffled)}
    return found, accuracy


@pytest.mark.slow
def test_seqgan_lowers_oracle_nll_and_keeps_test_nll(oracle_games):
    """Shuffled rewards are the negative control."""
    found, accuracy = oracle_games
    before, after, shuffled = (found[name] for name in ("MLE", "SeqGAN", "shuffled"))
    assert after.oracle - before.oracle <= -0.05 and shuffled.oracle - before.oracle >= -0.03
    assert after.test - before.test <= 0.05
    assert after.reverse - before.reverse <= -0.01 < shuffled.reverse - before.reverse
    assert max(before.reverse, before.forward, after.reverse, after.forward) <= 1.5
    assert 0.55 <= accuracy <= 0.8


@pytest.mark.slow
def test_a_low_temperature_lowers_oracle_nll_more_and_loses_variety(oracle_games):
    """Caccia et al., Language GANs Falling Short, ICLR 2020."""
    cold, after = (oracle_games[0][name] for name in ("cold", "SeqGAN"))
    assert cold.oracle - after.oracle <= -0.3 and cold.forward - after.forward >= 0.05
