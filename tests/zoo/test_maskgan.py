"""MaskGAN: hand values, leaks, enumeration of all fills, a source with a known posterior."""
import copy
import itertools
from typing import NamedTuple

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from runs.files import set_seed
from zoo import datasets, maskgan, metrics
from zoo.datasets import conditionals
from zoo.infilling import Reader
from zoo.maskgan import MaskGAN

MISSING = torch.tensor([False, True, True, False, True, False])


def holes(n):
    return MISSING.expand(n, 6)


def model(**options):
    set_seed(0)
    return MaskGAN(4, 6, holes, hidden=8, batch=10, **options)


@pytest.fixture
def strings():
    return datasets.markov_source(0, 4, 6, 0.3).sample(40, torch.Generator().manual_seed(0))


COUNTED = torch.tensor([[False, True, False, True, True]])


def test_returns_discount_missing_positions_only():
    rewards, expected = torch.tensor([[[1.0, 2, 4, 8, 16]], [[3.0, 6, 8, 16, 16]]])
    assert torch.equal(maskgan.returns(rewards, COUNTED, 0.5), expected)


def test_discriminator_is_trained_on_missing_tokens_only():
    real, drawn = torch.randn(2, 1, 5, requires_grad=True)
    loss = maskgan.discriminator_loss(real, drawn, COUNTED)
    for slope in torch.autograd.grad(loss, (real, drawn)):
        assert (slope[~COUNTED] == 0).all() and (slope[COUNTED] != 0).all()


def test_advantages_are_clipped(strings):
    advantages = model(clip=0.01).advantages(strings, holes(40))
    assert advantages.abs().max().item() == pytest.approx(0.01)


def test_missing_tokens_are_not_read_and_known_ones_stay(strings):
    player = model()
    changed = torch.where(MISSING, (strings + 1) % 4, strings)
    for net in (player.generator, player.discriminator, player.critic):
        assert torch.equal(net.encode(strings, holes(40))[0], net.encode(changed, holes(40))[0])

    def fill(x):
        set_seed(3)
        return player.generator.fill(x, holes(40))

    filled = fill(strings)
    assert torch.equal(filled, fill(changed))
    assert torch.equal(filled[:, ~MISSING], strings[:, ~MISSING])
    assert not torch.equal(filled[:, MISSING], strings[:, MISSING])


@pytest.mark.parametrize("shifted", [True, False])
def test_decoders_read_earlier_tokens_and_the_discriminator_the_judged_one(shifted):
    set_seed(0)
    net, x = Reader(4, 6, 4, shifted=shifted, hidden=8).double(), torch.randint(4, (1, 1, 6))

    def outputs(images):
        said = net(images.flatten(1), torch.ones(len(images), 6, dtype=torch.bool))
        return said.transpose(1, 2)[:, None, :, None]

    found = metrics.causality(outputs, x, (x + 1) % 4)
    assert found.reached == 1 and found.moves.tril(-1).max() < 1e-12
    assert (found.moves.diagonal() < 1e-12).all() == shifted


def test_the_game_trains_on_drawn_tokens_without_teacher_forcing(strings, monkeypatch):
    player = model()
    filled = player.generator.fill(strings, holes(40))
    monkeypatch.setattr(player.generator, "fill", lambda *args: filled)
    log_p, advantages = (of(filled, holes(40)) for of in (
        player.generator.log_probs, player.advantages))
    expected = maskgan.policy_loss(log_p, advantages, holes(40)).item()
    assert player.losses(strings, holes(40))[1]().item() == pytest.approx(expected)


SOURCE = datasets.markov_source(1, 3, 5, 0.5)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=5)))        # all 243 strings
HOLE = torch.tensor([False, True, True, False, True])


def test_samples_and_posterior_of_the_source_agree_with_enumeration():
    """Forward-backward against sums over the strings that agree with the known tokens."""
    set_seed(0)
    missing = HOLE.expand(243, 5)
    agrees = ((EVERY[:, None] == EVERY) | HOLE).all(2)                   # (string, string)
    p = SOURCE.log_prob(EVERY).exp()
    codes = (SOURCE.sample(40_000) * 3 ** torch.arange(4, -1, -1)).sum(1)
    assert p.sum().item() == pytest.approx(1)
    assert (torch.bincount(codes, minlength=243) / 40_000 - p).abs().max() < 0.01
    joint = p * agrees
    expected = (joint / joint.sum(1, keepdim=True)).diagonal().log()
    steps = SOURCE.posterior(EVERY, missing)
    log_p = conditionals(steps, EVERY).gather(2, EVERY.unsqueeze(2)).squeeze(2)
    assert torch.allclose((log_p * HOLE).sum(1), expected, atol=1e-9)
    changed = torch.where(HOLE, (EVERY + 1) % 3, EVERY)
    assert torch.equal(steps, SOURCE.posterior(changed, missing))
    filled = SOURCE.fill(EVERY, missing, torch.Generator().manual_seed(0))
    assert torch.equal(filled[:, ~HOLE], EVERY[:, ~HOLE]) and not torch.equal(filled, EVERY)


@pytest.fixture(scope="module")
def tiny():
    """A model fitted to SOURCE, and the 27 fills of one context."""
    set_seed(0)
    player = MaskGAN(3, 5, lambda n: HOLE.expand(n, 5), discount=1.0, clip=99.0, hidden=16)
    player.fit_likelihood(SOURCE.sample(500), 60)
    return player, EVERY[(EVERY[:, ~HOLE] == torch.tensor([1, 2])).all(1)]


def test_fills_have_probabilities_and_follow_them(tiny):
    """Total variation of 4000 exact draws is .026."""
    (player, fills), n = tiny, 4000
    p = player.generator.log_prob(fills, HOLE.expand(27, 5)).double().exp().detach()
    assert p.sum().log().item() == pytest.approx(0, abs=1e-5)
    drawn = player.generator.fill(fills[:1].expand(n, 5), HOLE.expand(n, 5))
    codes = (drawn[:, HOLE] * torch.tensor([9, 3, 1])).sum(1)
    assert metrics.total_variation(p, torch.bincount(codes, minlength=27) / n) < 0.06


def test_policy_gradient_is_that_of_the_expected_reward(tiny):
    """Sums over all fills at discount 1; a critic that reads the token it judges is biased."""
    player, fills = tiny
    missing = HOLE.expand(27, 5)
    log_p = player.generator.log_probs(fills, missing)
    p = (log_p * missing).sum(1).exp()

    def slope(loss):
        weights = [*player.generator.parameters()]
        return parameters_to_vector(torch.autograd.grad(loss, weights, retain_graph=True))

    def error():
        weights = 27 * HOLE.sum() * p.detach()[:, None]                  # undoes the loss's mean
        loss = maskgan.policy_loss(log_p, weights * player.advantages(fills, missing), missing)
        return ((slope(loss) - truth).norm() / truth.norm()).item()

    truth = slope(-(p * player.returns(fills, missing)[:, 1]).sum())
    assert error() < 1e-3
    player.critic.shifted = False
    assert error() > 0.1
    player.critic.shifted = True


def test_inpainting_draws_the_middle_rows(images):
    painter = maskgan.animals(images, steps=3, rounds=4)
    filled, shown = painter.fill(images), painter.masked(images)
    assert filled.shape == shown.shape == (6, 3, 8, 8) and filled.abs().max() < 1
    hidden = torch.arange(8).clamp(2, 5) == torch.arange(8)
    assert (shown[:, :, hidden] == 0).all()
    assert torch.equal(filled[:, :, ~hidden], shown[:, :, ~hidden])
    assert 2 < painter.bits_per_dim(images) < 6 and painter.n_parameters > 1000


V, T, N_TEST = 20, 20, 1000
GAP = (torch.arange(T) >= 5) & (torch.arange(T) < 15)        # missing tokens
ONWARDS = torch.arange(T) >= 5                               # missing tokens of the left-only model


class Fills(NamedTuple):
    """Quality of fills of the test strings; nats, means over fills."""
    kl: float                    # KL(G || posterior) of a fill of ten tokens
    log_p: float                 # log posterior of a token
    entropy: float               # of a token given those drawn before
    distinct: float              # fraction of distinct 4-grams in the gaps


def of_gaps(table, x):
    """Entries of log probabilities (n, T, V) at the missing tokens of x (n, T): (n, 10)."""
    return table.gather(2, x.unsqueeze(2)).squeeze(2)[:, GAP]


def auc(real, fake):
    """Probability that a logit of real (n,) exceeds one of fake (m,); 1/2 if they are alike."""
    below = torch.searchsorted(fake.sort().values, real.contiguous())
    return below.double().mean().item() / len(fake)


class Training:
    """MaskMLE, D and critic before the game, and the game, on a source of 20 tokens."""

    @torch.no_grad()
    def __init__(self):
        self.source = datasets.markov_source(0, V, T, 0.1)
        generator = torch.Generator().manual_seed(0)
        train, self.test = (self.source.sample(n, generator) for n in (100_000, N_TEST))
        self.missing = GAP.expand(N_TEST, T)
        self.steps = self.source.posterior(self.test, self.missing)
        set_seed(0)
        with torch.enable_grad():
            self.model = MaskGAN(V, T, lambda n: GAP.expand(n, T)).fit_likelihood(train, 2600)
            self.left = MaskGAN(V, T, lambda n: ONWARDS.expand(n, T)).fit_likelihood(train, 500)
            self.model.prepare(train, 1200)
        self.drawn = self.model.generator.fill(self.test, self.missing)
        self.before = copy.deepcopy(self.model)
        self.mle, self.cold = self.fills(), self.fills(0.8)
        with torch.enable_grad():
            self.model.play(train, 250)
        self.game = self.fills()

    def fills(self, temperature=1.0, repeats=8):
        """Fills of the test strings by the generator, mean over `repeats`."""
        rows = []
        for _ in range(repeats):
            x = self.model.generator.fill(self.test, self.missing, temperature)
            logits = self.model.generator(x, self.missing) / temperature
            log_g, log_p = logits.log_softmax(2).double()[:, GAP], conditionals(self.steps, x)
            kl = (log_g.exp() * (log_g - log_p[:, GAP])).sum((1, 2)).mean()
            entropy = torch.special.entr(log_g.exp()).sum(2).mean()
            rows.append((kl, of_gaps(log_p, x).mean(), entropy, distinct(x)))
        return Fills(*torch.tensor(rows).mean(0).tolist())


def distinct(x):
    grams = x[:, GAP].unfold(1, 4, 1).flatten(0, 1)
    return len(grams.unique(dim=0)) / len(grams)


@pytest.fixture(scope="module")
def training():
    return Training()


@pytest.mark.slow
@torch.no_grad()
def test_maximum_likelihood_reaches_the_posterior(training):
    """log G of true tokens against the exact posterior, with and without the right context."""
    x, onwards = training.test, ONWARDS.expand(N_TEST, T)
    best = of_gaps(conditionals(training.steps, x), x).mean()
    best_left = of_gaps(conditionals(training.source.posterior(x, onwards), x), x).mean()
    full, left = (of_gaps(net(x, missing).log_softmax(2), x).mean() for net, missing in (
        (training.before.generator, training.missing), (training.left.generator, onwards)))
    assert -0.01 < best - full < 0.05 and -0.01 < best_left - left < 0.05
    assert best - left > 0.05


@pytest.mark.slow
@torch.no_grad()
def test_discriminator_nears_the_best_one(training):
    """AUC above 1/2 on missing tokens, relative to that of the exact log posterior over G."""
    player, missing = training.before, training.missing

    def evidence(x):
        log_p = of_gaps(conditionals(training.steps, x), x)
        log_g = of_gaps(player.generator(x, missing).log_softmax(2), x)
        return (log_p - log_g).cumsum(1).flatten()

    def told(x):
        return auc(*(player.logits(y, missing)[missing] for y in (training.test, x))) - 0.5

    best = auc(evidence(training.test), evidence(training.drawn)) - 0.5
    assert told(training.drawn) / best >= 0.4
    assert told(training.source.fill(training.test, missing)) / best < 0.4        # exact fills


@pytest.mark.slow
def test_critic_explains_returns_and_lowers_the_variance_of_the_gradient(training):
    """Variance within positions, since returns shrink towards the end of a gap anyway."""
    player, missing, repeats = training.before, training.missing[:64], 50
    with torch.no_grad():
        back = player.returns(training.drawn, training.missing)
        error = back - player.values(training.drawn, training.missing)
    assert 1 - error[:, GAP].var(0).sum() / back[:, GAP].var(0).sum() >= 0.2
    slopes = []
    for _ in range(repeats):
        drawn = player.generator.fill(training.test[:64], missing)
        log_p, back = player.generator.log_probs(drawn, missing), player.returns(drawn, missing)
        for advantages in (player.advantages(drawn, missing), back):
            loss = maskgan.policy_loss(log_p, advantages.clamp(-player.clip, player.clip), missing)
            slopes.append(parameters_to_vector(torch.autograd.grad(
                loss, [*player.generator.parameters()], retain_graph=True)))
    critic, none = torch.stack(slopes).unflatten(0, (repeats, 2)).var(0).sum(1)
    assert critic / none <= 1 / 3


@pytest.mark.slow
def test_the_game_keeps_variety(training):
    """A lower temperature, the negative control, loses variety and gives likelier fills."""
    game, mle, cold = training.game, training.mle, training.cold
    real = distinct(training.test)
    assert game.entropy - mle.entropy >= -0.15 > cold.entropy - mle.entropy
    assert game.distinct / real >= 0.9 > cold.distinct / real
    assert cold.log_p - mle.log_p >= 0.03 and cold.kl - mle.kl <= 0.02


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="no gain over MaskMLE")
def test_the_game_improves_on_maximum_likelihood(training):
    game, mle = training.game, training.mle
    assert game.kl - mle.kl <= 0.02 and game.log_p - mle.log_p >= 0.03
