"""What BEGAN is held to: its controller by hand; the digits, for three values of gamma."""
import itertools

import torch
from torch import nn

from runs.files import set_seed
from zoo import datasets, metrics
from zoo.began import BEGAN, digit_began
from zoo.core import Check
from zoo.train import alternate

GAMMAS = (0.3, 0.5, 0.7)          # diversity ratios that bench compares
N_DRAWN = 2000                    # samples that are measured


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """The controller against values by hand, and whose gradients reach whom."""
    return [*_controller(), *_gradients()]


class _Constant(nn.Module):
    """Gives items (n, 4), all of one value, whatever it is given."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value.expand(len(x), 4)


def _controller(real=0.75, fake=0.25, rate=0.5, steps=20):
    """Nets that stand still: L(x) = .75 and L(G) = .25 at every step, D giving 0.

    By hand: with gamma = .5 k rises by .5 (.375 - .25) = .0625 a step until it is 1, at the 16th; with
    gamma = .25 it would fall, and stays at 0. M is .75 + .125 and .75 + .0625.
    """
    def play(gamma):
        model = BEGAN(_Constant(fake), _Constant(0.0), 1, gamma=gamma, rate=rate, lr=0.0)
        return model.fit(torch.full((8, 4), real), steps=steps).history

    def off(rows, by_hand):
        return max(abs(a - b) for a, b in zip(rows, by_hand, strict=True))

    rise, fall = play(0.5), play(0.25)
    k, m = [row[2] for row in rise + fall], [row[3] for row in rise + fall]
    by_hand = [min(1.0, 0.0625 * step) for step in range(1, steps + 1)] + [0.0] * steps
    m_by_hand = [0.875] * steps + [0.8125] * steps
    free = [0.0625 * step for step in range(1, steps + 1)] + [-0.03125 * step for step in range(1, steps + 1)]
    return [Check("k of 20 steps up and 20 down, largest difference to hand values", off(k, by_hand), hi=1e-6,
                  source="by hand",
                  controls={"not clipped": off(free, by_hand),
                            "before the step": off([0.0, *k[:steps - 1], *k[steps:]], by_hand)}),
            Check("M of the same steps, largest difference to hand values", off(m, m_by_hand), hi=1e-6,
                  source="by hand", controls={"no absolute value": off(
                      [real + gamma * real - fake for gamma in (0.5, 0.25) for _ in range(steps)],
                      m_by_hand)})]


def _gradients():
    """D's loss leaves G alone, G's leaves D alone, and the slope of D's is that of L(x) - k L(G)."""
    def slopes(loss, net):
        grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)
        return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                          for p, g in zip(net.parameters(), grads, strict=True)])

    model, x = digit_began(0.5), torch.rand(32, 64)
    model.k = 0.3

    def both(seed, k=0.3):
        """L_D as it must be, with the gradient left in the fakes."""
        set_seed(seed)
        fake = model.made(len(x))
        return model.losses(x).mean() - k * model.losses(fake).mean()

    set_seed(1)
    loss = model.discriminator_loss(x)
    found, wanted = slopes(loss, model.autoencoder), slopes(both(1), model.autoencoder)
    source = "L_D and L_G of Berthelot et al. 2017"

    def players(careful):
        """The largest gradient in D's weights, after a round, beside that of its own loss."""
        model.autoencoder.zero_grad()
        set_seed(2)
        if careful:
            still = [torch.optim.SGD(net.parameters(), 0.0) for net in (model.autoencoder, model.generator)]
            alternate((still[0], lambda: model.discriminator_loss(x), 1),
                           (still[1], model.generator_loss, 1))
        else:
            model.discriminator_loss(x).backward()
            model.generator_loss().backward()
        left = torch.cat([p.grad.flatten() for p in model.autoencoder.parameters()])
        set_seed(2)
        return (left - slopes(model.discriminator_loss(x), model.autoencoder)).abs().max().item()

    return [Check("gradient of L_D in G's weights, largest", slopes(loss, model.generator).abs().max().item(),
                  hi=0.0, source="fakes are held fixed",
                  controls={"left in": slopes(both(1), model.generator).abs().max().item()}),
            Check("gradient of L_D in D's weights off L(x) - k L(G), largest",
                  (found - wanted).abs().max().item(), hi=1e-6, source=source,
                  controls={"k = 0": (slopes(both(1, 0.0), model.autoencoder) - wanted).abs().max().item()}),
            Check("gradient of L_G left in D's weights, largest", players(True), hi=1e-6, source=source,
                  controls={"one backward for both": players(False)})]


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0, steps=6000):
    """Digits: whether the controller holds gamma, what gamma is worth, and whether all classes come."""
    (train, _), (test, labels) = datasets.digits()
    train, test = (2 * images.flatten(1) - 1 for images in (train, test))

    def run(gamma, **options):
        set_seed(seed)
        return digit_began(gamma, **options).fit(train, steps=steps, seed=seed)

    def balance(model):
        real, fake = (sum(column) for column in list(zip(*model.history[-500:], strict=True))[:2])
        return fake / real

    def foreign(model):
        """L of uniform noise over that of held-out digits."""
        with torch.no_grad():
            return (model.losses(2 * torch.rand_like(test) - 1).mean() / model.losses(test).mean()).item()

    models, free = {gamma: run(gamma) for gamma in GAMMAS}, run(GAMMAS[-1], rate=0.0)
    drawn = {gamma: model.sample(N_DRAWN) for gamma, model in models.items()}
    spread = {gamma: metrics.pair_distance(x) / metrics.pair_distance(test) for gamma, x in drawn.items()}
    loose = free.sample(N_DRAWN)
    spread_loose = metrics.pair_distance(loose) / metrics.pair_distance(test)
    last = drawn[GAMMAS[-1]]

    def n_classes(x):
        return (metrics.class_shares(x, test, labels) >= 0.02).sum().item()

    checks, away = [], "chosen beforehand"
    for gamma, model in models.items():
        checks += [Check(f"gamma = {gamma}: |L(G(z)) / L(x) - gamma|, last 500 steps",
                         abs(balance(model) - gamma), hi=0.06, source=away,
                         controls={"k = 0": abs(balance(free) - gamma)}),
                   Check(f"gamma = {gamma}: k in the end", model.k, 1e-6, 1 - 1e-6, "inside (0, 1)",
                         {"lambda = 0": free.k})]
    steps_up = [spread[b] - spread[a] for a, b in itertools.pairwise(GAMMAS)]
    return checks + [
        Check("least growth of pair distance / real, gamma .3 to .5 to .7", min(steps_up), lo=0.0,
              source="; ".join(f"gamma {gamma}: {share:.3f}" for gamma, share in spread.items()),
              controls={"from gamma .3 to k = 0": spread_loose - spread[GAMMAS[0]]}),
        Check("L of uniform noise over that of held-out digits", foreign(models[GAMMAS[-1]]), lo=2.0,
              source=away, controls={"untaught D": foreign(digit_began(0.5))}),
        Check("gamma = 0.7: classes of 10 with 2 % of the samples", n_classes(last), lo=8, source=away,
              controls={"k = 0": n_classes(loose)}),
        Check("gamma = 0.7: pair distance / real", spread[GAMMAS[-1]], lo=0.6, source=away,
              controls={"k = 0": spread_loose})]
