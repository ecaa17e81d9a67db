"""GAN: gradients, V and training steps in closed form; a ring of 8 and the digits."""
import math

import pytest
import torch
from torch import nn

from inference.measures import to_side
from runs.files import set_seed
from zoo import datasets, metrics
from zoo.gan import GAN, augment, generator_loss, value
from zoo.networks import mlp
from zoo.train import descend

N_SAMPLES = 2500


def points_gan(pack=1, **options):
    """A GAN of points in the plane, 128 units a layer."""
    return GAN(mlp(8, 128, 128, 2), mlp(2 * pack, 128, 128, 1), 8, pack=pack, lr=1e-3, **options)


def test_gradients_of_the_losses():
    """D - 1 and -D in the logit (Goodfellow et al. 2014, Section 3), finite at large logits."""
    def slope(loss, *logits):
        a = torch.tensor(logits, requires_grad=True)
        return torch.autograd.grad(loss(a), a)[0].abs().sum().item()

    for d in (0.01, 0.5):
        logit = math.log(d / (1 - d))
        assert slope(lambda a: generator_loss(a, False), logit) == pytest.approx(1 - d, abs=1e-6)
        assert slope(lambda a: generator_loss(a, True), logit) == pytest.approx(d, abs=1e-6)
    assert slope(lambda a: value(a, a), -200.0, 200.0) == pytest.approx(1)


def test_v_at_the_best_discriminator():
    """At D* = p / (p + q) it is -log 4 + 2 JSD(p, q) (Theorem 1), and lower elsewhere."""
    p, q = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 12], [9, 8, 7, 6, 4, 3, 2, 1]])  # counts
    best = (p / q).double().log()
    fractions, mean = (p / p.sum(), q / q.sum()), (p + q) / (p + q).sum()
    js = sum((f * (f / mean).log()).sum() for f in fractions).item() / 2

    def v(a):
        return value(a.repeat_interleave(p), a.repeat_interleave(q)).item()

    assert v(best) == pytest.approx(-math.log(4) + 2 * js, abs=1e-6)
    assert v(0.9 * best) < v(best) - 1e-3


def test_a_trained_discriminator_estimates_the_density_ratio():
    """log p/q of N(1, 1) and N(-1/2, 1) is 3x/2 - 3/8 (Proposition 1)."""
    set_seed(0)
    net, x = mlp(1, 32, 32, 1), torch.linspace(-2, 2.5, 91)[:, None]

    def loss():
        return -value(net(torch.randn(512, 1) + 1), net(torch.randn(512, 1) - 0.5))

    descend(net.parameters(), loss, 500, 2e-3)
    with torch.no_grad():
        assert (net(x) - 1.5 * x + 0.375).square().mean().sqrt() < 0.25


def test_the_loss_of_the_discriminator_holds_the_fakes_fixed():
    model = points_gan()
    model.discriminator_loss(torch.randn(8, 2)).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.discriminator.parameters())


def test_packs_hold_neighbours_and_the_penalty_is_the_squared_gradient_on_real_items():
    set_seed(0)
    real = torch.randn(8, 2)

    def loss(r1):
        set_seed(1)
        model = GAN(mlp(2, 8, 2), nn.Linear(4, 1), 2, pack=2, batch=8, r1=r1)
        assert torch.equal(model.logits(real), model.discriminator(real.view(4, 4)).squeeze(1))
        return model.discriminator_loss(real), model.discriminator.weight

    (plain, _), (penalised, w) = loss(0.0), loss(0.6)          # the gradient of w . x is w
    assert (penalised - plain).item() == pytest.approx(0.3 * w.square().sum().item(), abs=1e-6)


def test_samples_come_from_the_running_mean():
    set_seed(0)
    model = points_gan(average=0.9).fit(datasets.ring().sample(200), steps=2)
    set_seed(1)
    x = model.sample(5)
    set_seed(1)
    z = torch.randn(5, 8)
    assert torch.equal(x, model.mean.module(z)) and not torch.equal(x, model.generator(z))


def test_augmentation_is_differentiable_and_random(images):
    x = to_side(images, 32).requires_grad_(True)
    seen = augment(x)
    (grad,) = torch.autograd.grad(seen.sum(), x)
    assert seen.shape == x.shape and torch.isfinite(grad).all() and grad.abs().sum() > 0
    assert (seen.mean((1, 2, 3)) - x.mean((1, 2, 3))).abs().max() < 0.5
    assert not torch.equal(augment(x), augment(x))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"saturating": True}, {"pack": 2}],
                         ids=["non-saturating", "minimax", "pack"])
def test_a_ring_is_covered(options):
    set_seed(0)
    world = datasets.ring()
    train, test = world.sample(10_000), world.sample(N_SAMPLES)
    model = points_gan(**options).fit(train, steps=8000)
    x = model.sample(N_SAMPLES)
    found = metrics.coverage(x, world)
    assert found.modes == 8 and found.quality > 0.85 and found.kl < 0.02
    if not options:
        with torch.no_grad():
            assert 0.48 < metrics.accuracy(model.logits(test), model.logits(x)) < 0.75
        assert metrics.tell_apart(test, x) < 0.8


@pytest.mark.slow
def test_too_many_steps_of_d_lose_modes():
    set_seed(0)
    world = datasets.ring()
    model = points_gan(k=5).fit(world.sample(10_000), steps=1600)  # as many steps of D
    assert metrics.coverage(model.sample(N_SAMPLES), world).modes < 8


@pytest.mark.slow
def test_all_digits_are_drawn():
    """Classes by the 3 nearest held-out digits; the rarest of independent pixels has about .03."""
    set_seed(0)
    (train, _), (test, labels) = datasets.digits()
    train, test = (2 * images.flatten(1) - 1 for images in (train, test))
    model = GAN(mlp(16, 128, 128, 64), mlp(64, 128, 128, 1), 16, r1=0.1, lr=5e-4)
    x = model.fit(train, steps=6000).sample(N_SAMPLES)
    assert metrics.class_shares(x, test, labels).min() > 0.05
    pixels = train[torch.randint(len(train), (N_SAMPLES, 64)), torch.arange(64)]
    assert metrics.class_shares(pixels, test, labels).min() < 0.05
