"""Boundary equilibrium GAN (BEGAN): the discriminator is an autoencoder, a controller keeps it in balance.

    L(v)  = mean over pixels of |v - D(v)|,     D an autoencoder,   z ~ U(-1, 1)^nz
    L_D   = L(x) - k L(G(z)),                   L_G = L(G(z))
    k    <- clip(k + lambda (gamma L(x) - L(G(z))), 0, 1)                       after the steps of D and G
    M     = L(x) + |gamma L(x) - L(G(z))|

Berthelot, Schumm and Metz, BEGAN: Boundary Equilibrium Generative Adversarial Networks, arXiv:1703.10717,
2017. At the equilibrium E L(G(z)) = gamma E L(x): a small gamma asks for pictures that D codes well, a large
one for variety. M was proposed as a measure of convergence. It falls during a collapse too, so that nothing
is judged by it here; but where it no longer falls the learning rate is halved, down to a floor.
"""
import itertools

import torch
from torch import nn

from models import GenNet
from utils import set_seed, to_side
from zoo import core, gan, measure, worlds
from zoo.core import Check

GAMMAS = (0.3, 0.5, 0.7)          # diversity ratios that bench compares
N_DRAWN = 2000                    # samples that are measured


def next_k(k, real, fake, gamma, rate):
    """k of the next step from the losses L(x) and L(G(z)) of this one, floats; rate is lambda."""
    return min(1.0, max(0.0, k + rate * (gamma * real - fake)))


def convergence(real, fake, gamma):
    """M of the losses L(x) and L(G(z)), floats."""
    return real + abs(gamma * real - fake)


class BEGAN:
    """A generator and the autoencoder that teaches it.

    generator    z (n, nz) in [-1, 1] -> items (n, ...)
    autoencoder  items (n, ...) -> the same shape, without a head that would bound them
    nz           dimension of z
    gamma        L(G(z)) / L(x) at the equilibrium, in (0, 1]
    rate         lambda, of the controller; 0: k stays at 0
    augment      random change of the items that D learns, (n, ...) -> the same; None: none
    lr, floor    of Adam (beta1 = .5) for both at first, and where it is halved no more
    patience     steps over which M is averaged; where that is no lower than ever before, lr is halved
    batch        items of each kind in a step
    """

    def __init__(self, generator, autoencoder, nz, *, gamma=0.5, rate=1e-3, augment=None, lr=1e-4,
                 floor=2e-5, patience=2000, batch=64):
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1; it is {gamma}")
        if rate < 0 or patience < 1:
            raise ValueError(f"rate must be at least 0 and patience at least 1; they are {rate}, {patience}")
        self.generator, self.autoencoder, self.nz = generator, autoencoder, nz
        self.gamma, self.rate, self.augment = gamma, rate, augment
        self.floor, self.patience, self.batch = floor, patience, batch
        self.opt_g, self.opt_d = (torch.optim.Adam(net.parameters(), lr, (0.5, 0.999), fused=True)
                                  for net in (generator, autoencoder))
        self.k, self.real = 0.0, 0.0                 # k of the next step, L(x) of the last one
        self.history = []                            # L(x), L(G(z)), k of the next step, M, lr, of each step

    @property
    def n_parameters(self):
        """How many numbers are learned, those of the autoencoder too."""
        return core.n_parameters(self.generator, self.autoencoder)

    def losses(self, x):
        """L of each item (n, ...) -> (n,)."""
        return (x - self.autoencoder(x)).abs().flatten(1).mean(1)

    def made(self, n):
        """G(z) of n fresh z (n, ...), with a gradient to G."""
        return self.generator(2 * torch.rand(n, self.nz) - 1)

    def discriminator_loss(self, real):
        """L_D on items (n, ...) and as many fresh fakes; no gradient goes to G -> ()."""
        with torch.no_grad():
            fake = self.made(len(real))
        of_real = self.losses(real if self.augment is None else self.augment(real)).mean()
        self.real = of_real.item()
        return of_real - self.k * self.losses(fake).mean()

    def generator_loss(self):
        """L_G on fresh fakes -> ()."""
        return self.losses(self.made(self.batch)).mean()

    def fit(self, data, *, steps, seed=0):
        """`steps` steps of D and of G on data (n, ...), with k after each and lr where M stalls -> self."""
        set_seed(seed)

        def judge():
            return self.discriminator_loss(data[torch.randint(len(data), (self.batch,))])

        best = float("inf")
        for step in range(1, steps + 1):
            _, fake = core.alternate((self.opt_d, judge, 1), (self.opt_g, self.generator_loss, 1))
            self.k = next_k(self.k, self.real, fake, self.gamma, self.rate)
            self.history.append((self.real, fake, self.k, convergence(self.real, fake, self.gamma),
                                 self.opt_g.param_groups[0]["lr"]))
            if step % self.patience == 0:
                mean = sum(row[3] for row in self.history[-self.patience:]) / self.patience
                if mean >= best:
                    self._halve()
                best = min(best, mean)
        return self

    def _halve(self):
        for optimizer in (self.opt_d, self.opt_g):
            for group in optimizer.param_groups:
                group["lr"] = max(min(self.floor, group["lr"]), group["lr"] / 2)

    @torch.no_grad()
    def sample(self, n):
        """n items (n, ...)."""
        return self.made(n)

    @torch.no_grad()
    def reconstruct(self, x):
        """D(x): items (n, ...) -> the same."""
        return self.autoencoder(x)


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
            core.alternate((still[0], lambda: model.discriminator_loss(x), 1),
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
    (train, _), (test, labels) = worlds.digits()
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
    spread = {gamma: measure.pair_distance(x) / measure.pair_distance(test) for gamma, x in drawn.items()}
    loose = free.sample(N_DRAWN)
    spread_loose = measure.pair_distance(loose) / measure.pair_distance(test)
    last = drawn[GAMMAS[-1]]

    def n_classes(x):
        return (measure.class_shares(x, test, labels) >= 0.02).sum().item()

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


def digit_began(gamma, h=16, width=128, rate=0.05, lr=4e-4, batch=32, **options):
    """A BEGAN of digits (n, 64) in [-1, 1], whose autoencoder codes them with h numbers, as many as z has.

    The controller is fast: with lambda = .001, as in the paper, and lr = .0001, L(G(z)) / L(x) swung between
    .57 and .82 for gamma = .7, and samples were of one class of 10 (4000 steps).
    """
    generator = core.mlp(h, width, width, 64, activation=nn.ELU)
    autoencoder = core.mlp(64, width, width, h, width, width, 64, activation=nn.ELU)
    return BEGAN(generator, autoencoder, h, gamma=gamma, rate=rate, lr=lr, batch=batch, **options)


# ---------------------------------------------------------------------------------------------------- animals

def image_began(h=32, width=16, **options):
    """A BEGAN of images (n, 3, 32, 32): G is ABP's generator, and so is D's decoder, but for its tanh."""
    layers = gan.image_layers(width, nn.ELU())
    decoder = GenNet(h, 32, 128, 12)
    decoder.deconv = decoder.deconv[:-1]
    autoencoder = nn.Sequential(*layers, nn.Linear(64 * width, h), decoder)
    return BEGAN(GenNet(h, 32, 128, 12), autoencoder, h, **options)


def animals(data, seed=0, steps=2000):
    """The BEGAN of images (n, 3, S, S) in [-1, 1] and of their mirror images, at 32 x 32.

    On 18 photographs it collapses: every sample is the same animal, and k ends at 0. It does so, too, at
    a smaller learning rate and with the GAN's augmentation, and the animal is a blur then.
    """
    set_seed(seed)
    data = to_side(data, 32)
    model = image_began(gamma=0.7, rate=0.05, lr=1e-3, batch=8)
    return model.fit(torch.cat([data, data.flip(3)]), steps=steps, seed=seed)
