"""PPGN: denoisers against scores, p(z | y) on ABP's latent plane, classes of digits."""
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data.draw import draw_set
from inference.samplers import TARGET_GRADIENT, mala
from runs.files import set_seed
from utils import to_tensor
from zoo import abp, datasets, metrics, ppgn
from zoo.networks import mlp
from zoo.ppgn import PPGN, Codes, Rates, fit_classifier, fit_denoiser, log_class, update


def new_faces(n, seed, side=16):
    """n drawn faces (n, 3, side, side) and their kinds, 0 tiger or 1 lion (n,)."""
    faces, images = zip(*draw_set(n, side, seed), strict=True)
    kinds = torch.tensor([int(face.lion > 0.5) for face in faces])
    return torch.stack([to_tensor(image) for image in images]), kinds


def test_a_denoiser_of_a_gaussian_gives_the_smoothed_score(v=1.7, s=0.6):
    """The best R of N(0, v) has (R(x) - x) / s^2 = -x / (v + s^2) (Alain and Bengio 2014)."""
    set_seed(0)
    net = nn.Linear(1, 1)
    fit_denoiser(net, lambda: math.sqrt(v) * torch.randn(4096, 1), s, 300, lr=0.05)
    assert (1 - net.weight.item()) / s**2 == pytest.approx(1 / (v + s**2), rel=0.03)


def test_a_denoiser_of_a_mixture_gives_the_smoothed_score(s=0.5):
    set_seed(0)
    world = datasets.ring(3, 1.5, 0.2)
    smooth = datasets.Mixture(world.centres, math.hypot(world.sd, s))
    net, x = mlp(2, 64, 64, 2, activation=nn.Tanh), smooth.sample(4000)
    score = ppgn.gradient(smooth.log_prob, x)

    def cosine():
        with torch.no_grad():
            return F.cosine_similarity((net(x) - x).flatten(), score.flatten(), 0)

    assert cosine() < 0.9
    fit_denoiser(net, lambda: world.sample(512), s, 500, lr=4e-3)
    assert cosine() > 0.95
    with torch.no_grad():
        slope = ((net(x) - x) / s**2 * score).sum() / score.square().sum()
    assert slope == pytest.approx(1, abs=0.2)


def test_the_stationary_distribution_of_the_update(v=1.0, s=0.5, t=0.3, pull=0.8):
    """For p = N(0, v) and log C = pull h the update is a first-order autoregression.

    h + e1 (R - h) is (1 - a) h, a = e1 s^2 / (v + s^2): mean e2 pull / a, variance
    e3^2 / (1 - (1 - a)^2).
    """
    set_seed(0)
    rates, h = ppgn.langevin_rates(t, s), torch.zeros(20_000, 1)
    for _ in range(150):
        h = update(h, lambda h: v / (v + s**2) * h, lambda h: pull * h.squeeze(1), rates)
    a = rates.prior * s**2 / (v + s**2)
    assert h.mean() == pytest.approx((v + s**2) * pull, rel=0.03)          # that of p_s C
    assert h.var() == pytest.approx(t**2 / (1 - (1 - a) ** 2), rel=0.04)


def test_steering_follows_the_gradient_of_log_softmax():
    """d/dh log softmax(W h)_y = W_y - sum_j p_j W_j."""
    w, h, y = torch.randn(4, 3), torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    by_hand = w[y] - (h @ w.T).softmax(1) @ w
    moved = update(h, lambda h: h, lambda h: log_class(h @ w.T, y), Rates(0.0, 1.0, 0.0)) - h
    assert torch.allclose(moved, by_hand, atol=1e-5)


def test_codes_are_white_and_every_variant_draws_items_by_independent_chains():
    set_seed(0)
    codes = Codes(torch.randn(40, 12), d=3, steps=2)
    assert torch.allclose(codes.codes.T.cov(), torch.eye(3), atol=1e-3)
    steered = ppgn.variants(codes, mlp(12, 8, 4))
    assert list(steered) == ["DGN-AM", "PPGN-x", "PPGN-h", "Joint", "noiseless"]
    for model in steered.values():
        x = model.sample(torch.arange(6) % 4, n_steps=4)
        assert x.shape == (6, 12) and torch.isfinite(x).all() and not x.requires_grad
    h, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    together, alone = model.chains(h, y, 6), model.chains(h[2:3], y[2:3], 6)     # noiseless
    assert torch.allclose(together[2:3], alone, atol=1e-5)


def test_a_generator_of_faces_is_steered_towards_each_kind_in_turn():
    x, y = new_faces(12, 0)
    set_seed(0)
    kinds = ["lion" if lion else "tiger" for lion in y]
    model = ppgn.animals(x, kinds, side=16, width=2, hidden=32, n_epochs=3)
    images = model.sample(5, n_steps=2)
    assert images.shape == (5, 3, 16, 16) and images.isfinite().all() and model.classes == 2
    model.net = lambda z: z.view(-1, 2, 1, 1)[:, [0]].expand(-1, 3, 16, 16)      # z_1: brightness
    model.classifier = lambda x: 20 * torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)
    z = model.sample(200, n_steps=50)[:, 0, 0, 0]
    assert (z[::2] > 0).float().mean() > 0.95 and (z[1::2] < 0).float().mean() > 0.95


@pytest.mark.slow
def test_mala_draws_faces_of_each_kind():
    """On ABP's plane of 24 faces p(z | y) is known on a grid; another network judges the kinds."""
    set_seed(0)
    n, burn_in, kept = 1000, 100, 60
    steering, judge = ppgn.face_classifier(), nn.Sequential(nn.Flatten(), mlp(768, 64, 2))
    for k, net in enumerate((steering, judge)):
        fit_classifier(net, *new_faces(200, 1 + k), steps=300)
    config = abp.settings(16, width=4, hidden=64, n_epochs=120)
    net = abp.Alternating(config, new_faces(24, 0)[0]).net
    grid, start = metrics.square(4.0, 15), torch.randn(n, 2)

    def energy(z, y):
        return z.square().sum(1) / 2 - log_class(steering(net(z)), y)

    @torch.no_grad()
    def masses(y):
        return grid.masses(lambda z: -torch.cat([energy(part.float(), y)
                                                 for part in z.split(2000)]).double())

    @torch.no_grad()
    def judged(z, y):
        return (judge(net(z)).argmax(1) == y).double().mean()

    exact = [masses(y) for y in (0, 1)]
    for y in (0, 1):
        states = []

        def target(z, y=y):
            return energy(z, y)

        def keep(k, z, *_, states=states):
            if k >= burn_in:
                states.append(z)

        step = mala(target, start, 60, 0.3, TARGET_GRADIENT).step.median().item()
        mala(target, start, burn_in + kept, step, callback=keep)
        found = grid.histogram(torch.cat(states))
        assert metrics.total_variation(found, exact[y]) < 0.1 < 0.5 < metrics.total_variation(
            found, exact[1 - y])
        assert judged(states[-1], y) > 0.85 > judged(start, y)


@pytest.mark.slow
def test_digits_of_each_class_are_drawn(n=200):
    """The classifier was fitted to one half of the training digits, the judge to the other."""
    set_seed(0)
    (train, labels), (test, classes) = datasets.digits()
    train, test = (2 * images.flatten(1) - 1 for images in (train, test))
    half = len(train) // 2
    steering = fit_classifier(mlp(64, 128, 10), train[:half], labels[:half])
    layers = [nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()]
    judge = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers, nn.Flatten(), nn.Linear(512, 10))
    fit_classifier(judge, train[half:], labels[half:])
    models = ppgn.variants(Codes(train), steering)
    held = models["PPGN-h"]
    models["not steered"], models["no prior"] = (
        PPGN(held.generator, held.denoise, steering, held.rates._replace(**{term: 0.0}), held.d)
        for term in ("steer", "prior"))
    real = [test[classes == y] for y in range(10)]

    def distance(x, y):
        return metrics.nearest(x[:, None, None], real[y][:, None, None])

    found = {}             # of the worst class: accuracy, diversity, distance to held-out digits
    for name, model in models.items():
        kinds = list(enumerate(model.sample(torch.arange(10).repeat_interleave(n)).split(n)))
        found[name] = (
            min((judge(x).argmax(1) == y).double().mean().item() for y, x in kinds),
            min(metrics.pair_distance(x) / metrics.pair_distance(real[y]) for y, x in kinds),
            max(distance(x, y) / distance(train[labels == y], y) for y, x in kinds))
    for name in ("PPGN-h", "Joint", "noiseless"):
        accuracy, diversity, away = found[name]
        assert accuracy >= 0.9 and diversity > 0.5 and away < 1.7, name
    assert found["not steered"][0] < 0.1 and found["no prior"][0] < 0.9
    assert found["DGN-AM"][1] < 0.1                              # one image for each class
    assert found["PPGN-x"][2] > 1.7 and found["no prior"][2] > 1.7
