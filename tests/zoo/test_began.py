"""BEGAN: the controller against hand values; digits at three values of gamma."""
import itertools

import pytest
import torch
from torch import nn

from runs.files import set_seed
from zoo import datasets, metrics
from zoo.began import BEGAN
from zoo.networks import mlp


def digit_began(**options):
    """A BEGAN of digits (n, 64) in [-1, 1], with codes of 16 numbers."""
    generator = mlp(16, 128, 128, 64, activation=nn.ELU)
    autoencoder = mlp(64, 128, 128, 16, 128, 128, 64, activation=nn.ELU)
    options = {"rate": 0.05, "lr": 4e-4, "batch": 32} | options
    return BEGAN(generator, autoencoder, 16, **options)


class Constant(nn.Module):
    """Items (n, 4) of one value for every input."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value.expand(len(x), 4)


@pytest.mark.parametrize("gamma, k, m", [(0.5, [min(1.0, 0.0625 * t) for t in range(1, 21)], 0.875),
                                         (0.25, [0.0] * 20, 0.8125)])
def test_k_and_m_equal_hand_values(gamma, k, m):
    """L(x) = .75 and L(G) = .25: k changes by .5 (.75 gamma - .25) a step, clipped to [0, 1]."""
    model = BEGAN(Constant(0.25), Constant(0.0), 1, gamma=gamma, rate=0.5, lr=0.0)
    history = model.fit(torch.full((8, 4), 0.75), steps=20).history
    assert [row[2] for row in history] == pytest.approx(k)
    assert [row[3] for row in history] == pytest.approx([m] * 20)


def test_the_loss_of_the_discriminator_holds_the_fakes_fixed():
    model, x = digit_began(), torch.rand(32, 64)
    model.k = 0.3
    set_seed(1)
    loss = model.discriminator_loss(x)
    loss.backward()
    assert all(p.grad is None for p in model.generator.parameters())
    set_seed(1)
    by_hand = model.losses(x).mean() - 0.3 * model.losses(model.made(len(x))).mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize("patience, rates", [(1, [4e-4, 2e-4, 1e-4]), (1000, [4e-4])])
def test_the_learning_rate_is_halved_down_to_the_floor(patience, rates):
    set_seed(0)
    model = digit_began(batch=4, floor=1e-4, patience=patience).fit(torch.rand(50, 64), steps=40)
    seen = [row[4] for row in model.history]
    assert sorted(set(seen), reverse=True) == pytest.approx(rates)
    assert seen == sorted(seen, reverse=True)


@pytest.fixture(scope="module")
def trained():
    """{gamma: a BEGAN trained on the digits}, held-out digits (397, 64) and their classes."""
    (train, _), (test, labels) = datasets.digits()
    train, test = (2 * images.flatten(1) - 1 for images in (train, test))
    models = {}
    for gamma in (0.3, 0.5, 0.7):
        set_seed(0)
        models[gamma] = digit_began(gamma=gamma).fit(train, steps=6000)
    return models, test, labels


@pytest.mark.slow
def test_the_controller_holds_gamma_and_gamma_sets_the_diversity(trained):
    models, test, _ = trained
    spread = []
    for gamma, model in models.items():
        real, fake = (sum(column) for column in list(zip(*model.history[-500:], strict=True))[:2])
        assert fake / real == pytest.approx(gamma, abs=0.06) and 0 < model.k < 1
        spread.append(metrics.pair_distance(model.sample(2000)))
    assert all(more > less for less, more in itertools.pairwise(spread))
    with torch.no_grad():
        noise = models[0.7].losses(2 * torch.rand_like(test) - 1).mean()
        assert noise > 2 * models[0.7].losses(test).mean()


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=AssertionError,
                   reason="BEGAN collapses: 1 to 3 of 10 classes on seeds 0 to 2")
def test_all_digits_are_drawn(trained):
    models, test, labels = trained
    set_seed(0)
    assert (metrics.class_shares(models[0.7].sample(2000), test, labels) >= 0.02).sum() >= 8


@pytest.mark.slow
@pytest.mark.xfail(strict=True, raises=AssertionError,
                   reason="BEGAN collapses: .43 to .52 of real on seeds 0 to 2")
def test_digits_are_diverse(trained):
    models, test, _ = trained
    set_seed(0)
    assert metrics.pair_distance(models[0.7].sample(2000)) >= 0.6 * metrics.pair_distance(test)
