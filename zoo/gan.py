"""Generative adversarial network (GAN): a generator against a discriminator.

    V(D, G) = E log D(x) + E log(1 - D(G(z))),    D = sigmoid(a),  z ~ N(0, I)

    (1) discriminate, k times:  ascend V in the weights of D, on fresh fakes G(z) held fixed
    (2) generate:               descend E log(1 - D(G(z))) (minimax) or -E log D(G(z)) (non-saturating) in
                                those of G

Goodfellow et al., Generative Adversarial Nets, NIPS 2014: V is Eq. 1, the steps are Algorithm 1, and the
non-saturating loss is the end of Section 3. Everything is a softplus of the logit a, since
log D = -softplus(-a) and log(1 - D) = -softplus(a): no logarithm of a rounded 0 or 1.

Packing (Lin, Khetan, Fanti and Oh, PacGAN, NeurIPS 2018) shows D `pack` items at once, all real or all fake,
so that it sees a lack of variety.
"""
import copy
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from models import GenNet
from utils import set_seed, to_side
from zoo import core, measure, worlds
from zoo.core import Check

SAMPLES = 2500                   # points that measure coverage


def value(real, fake):
    """V(D, G) of the logits of real (n,) and of fake (m,) items, in nats -> ()."""
    return -F.softplus(-real).mean() - F.softplus(fake).mean()


def generator_loss(fake, saturating):
    """What G descends, from the logits of fake items (m,) -> ().

    saturating  True: E log(1 - D), the minimax loss, slope -D in the logit; False: -E log D, slope D - 1
    """
    return -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()


class GAN:
    """A generator and the discriminator that teaches it.

    generator      z (n, nz) -> items (n, c, ...)
    discriminator  (n, pack * c, ...) -> logits (n, 1)
    nz             dimension of z
    saturating     whether G has the minimax loss; else the non-saturating one
    k              steps of D for each of G
    pack           items that D judges at once, joined along their first dimension c; divides batch
    augment        differentiable random change of items (n, c, ...), drawn anew for what D reads, real and
                   fake alike (Zhao et al., DiffAugment, NeurIPS 2020); None: none
    lr, beta1      of Adam, for both; lr falls along a line to 0
    batch          items of each kind in a step
    r1             weight of the gradient penalty r1/2 E |da/dx|^2 on real items, which D descends with -V, so
                   that it stays smooth where there are few items (Mescheder, Geiger and Nowozin, Which
                   Training Methods for GANs do actually Converge?, ICML 2018, Eq. 9)
    average        decay of the running mean of G's weights that samples come from; 0: its last weights
    """

    def __init__(self, generator, discriminator, nz, *, saturating=False, k=1, pack=1, augment=None, r1=0.0,
                 lr=2e-4, beta1=0.5, batch=128, average=0.0):
        if k < 1 or batch % pack:
            raise ValueError(f"k must be at least 1 and pack divide batch; they are {k}, {pack}, {batch}")
        self.generator, self.discriminator, self.nz = generator, discriminator, nz
        self.saturating, self.k, self.pack, self.augment = saturating, k, pack, augment
        self.r1, self.batch, self.average = r1, batch, average
        self.opt_g, self.opt_d = (torch.optim.Adam(net.parameters(), lr, (beta1, 0.999), fused=True)
                                  for net in (generator, discriminator))
        self.mean_generator = copy.deepcopy(generator).requires_grad_(False) if average else generator
        self.fixed_z = torch.randn(64, nz)       # the same places of z all through training, to watch G move
        self.history = []                        # V, less the penalty, and the loss of G after each round

    @property
    def n_parameters(self):
        """How many numbers are learned, those of the discriminator too."""
        return core.n_parameters(self.generator, self.discriminator)

    def logits(self, x):
        """a of items (n, c, ...), packed and augmented as in training -> (n / pack,)."""
        return self.discriminator(self._shown(x)).squeeze(1)

    def _shown(self, x):
        x = x if self.augment is None else self.augment(x)
        return x.unflatten(0, (-1, self.pack)).flatten(1, 2)

    def made(self, z, generator=None):
        """Items (n, c, ...) at z (n, nz), by the generator that is taught or by another one like it."""
        return (generator or self.generator)(z)

    def generator_loss(self):
        """What G descends, on fresh fakes -> ()."""
        return generator_loss(self.logits(self.made(torch.randn(self.batch, self.nz))), self.saturating)

    def discriminator_loss(self, real):
        """-V on real items (n, c, ...) and as many fresh fakes, with the penalty; no gradient to G -> ()."""
        with torch.no_grad():
            fake = self.made(torch.randn(len(real), self.nz))
        shown = self._shown(real).requires_grad_(self.r1 > 0)
        logits = self.discriminator(shown).squeeze(1)
        loss = -value(logits, self.logits(fake))
        if self.r1:
            (slope,) = torch.autograd.grad(logits.sum(), shown, create_graph=True)
            loss = loss + self.r1 / 2 * slope.square().flatten(1).sum(1).mean()
        return loss

    def fit(self, data, *, steps, seed=0):
        """Algorithm 1 on data (n, c, ...) for `steps` steps of G -> self."""
        set_seed(seed)

        def batch():
            return data[torch.randint(len(data), (self.batch,))]

        falling = [LambdaLR(opt, lambda step: 1 - step / steps) for opt in (self.opt_d, self.opt_g)]
        for _ in range(steps):
            minus_value, loss = core.alternate((self.opt_d, lambda: self.discriminator_loss(batch()), self.k),
                                               (self.opt_g, self.generator_loss, 1))
            self.history.append((-minus_value, loss))
            for rate in falling:
                rate.step()
            if self.average:
                with torch.no_grad():
                    for mean, weight in zip(self.mean_generator.parameters(), self.generator.parameters(),
                                            strict=True):
                        mean.lerp_(weight, 1 - self.average)
        return self

    @torch.no_grad()
    def sample(self, n):
        """n items (n, c, ...)."""
        return self.made(torch.randn(n, self.nz), self.mean_generator)

    @torch.no_grad()
    def snapshot(self):
        """Items at the fixed places of z: (64, c, ...)."""
        return self.made(self.fixed_z, self.mean_generator)


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """The losses' slopes, V at the best D, a trained D against log p/q, and the steps of the game."""
    return [*_slopes(), _best_value(), _density_ratio(), _game()]


def _slopes():
    """At D = .01 the slopes in the logit are D - 1 and -D: the minimax loss teaches 99 times less."""
    def slope(loss, *logits):
        a = torch.tensor(logits, requires_grad=True)
        return torch.autograd.grad(loss(a), a)[0].abs().sum().item()

    def of_g(saturating, d):
        return slope(lambda a: generator_loss(a, saturating), math.log(d / (1 - d)))

    def by_sigmoid(a):
        return -(a.sigmoid().log() + (1 - a.sigmoid()).log()).mean()

    source = "Goodfellow et al. 2014, Section 3"
    return [
        Check("|slope| of the non-saturating loss at D = .01", of_g(False, 0.01), 0.99 - 1e-6, 0.99 + 1e-6,
              source, {"minimax": of_g(True, 0.01)}),
        Check("non-saturating over minimax slope at D = .01", of_g(False, 0.01) / of_g(True, 0.01),
              99 - 1e-3, 99 + 1e-3, source, {"at D = 1/2": of_g(False, 0.5) / of_g(True, 0.5)}),
        Check("sum of |slopes| of V at logits -200 and 200", slope(lambda a: -value(a, a), -200.0, 200.0),
              1 - 1e-6, 1 + 1e-6, "sigmoid of the logit, in [0, 1]",
              {"log of a sigmoid": slope(by_sigmoid, -200.0, 200.0)})]


def _best_value():
    """V at D* = p / (p + q) is -log 4 + 2 JSD(p, q): two distributions of 8 values, in counts."""
    p, q = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 12], [9, 8, 7, 6, 4, 3, 2, 1]])
    a = (p / q).double().log()
    p_share, q_share, mean = p / p.sum(), q / q.sum(), (p + q) / (p + q).sum()
    js = sum((share * (share / mean).log()).sum() for share in (p_share, q_share)) / 2

    def excess(a):
        return (value(a.repeat_interleave(p), a.repeat_interleave(q)) + math.log(4) - 2 * js).item()

    return Check("V at D* less (-log 4 + 2 JSD) [nats]", excess(a), -1e-6, 1e-6,
                 "Goodfellow et al. 2014, Theorem 1", {"logits 10 % too small": excess(0.9 * a)})


def _density_ratio():
    """A trained D tells log p/q of N(1, 1) and N(-1/2, 1), which is 3x/2 - 3/8, where both have mass."""
    set_seed(0)
    net, x = core.mlp(1, 32, 32, 1), torch.linspace(-2, 2.5, 91)[:, None]
    truth = 1.5 * x - 0.375

    def error():
        with torch.no_grad():
            return (net(x) - truth).square().mean().sqrt().item()

    untrained = error()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    core.alternate((optimizer, lambda: -value(net(torch.randn(512, 1) + 1), net(torch.randn(512, 1) - 0.5)),
                    1000))
    return Check("RMS of logit - log p/q, N(1, 1) against N(-1/2, 1) [nats]", error(), hi=0.25,
                 source="Goodfellow et al. 2014, Proposition 1", controls={"untrained D": untrained})


def _game():
    """Five rounds against a generator that stands still: D must move as gradient steps by hand move it."""
    def play(alternate):
        set_seed(3)
        model, real = GAN(_Point(), core.mlp(2, 16, 16, 1), 2), torch.randn(64, 2)
        opt_d, opt_g = (torch.optim.SGD(net.parameters(), lr)
                        for net, lr in ((model.discriminator, 0.1), (model.generator, 0.0)))
        for _ in range(5):
            alternate((opt_d, lambda: model.discriminator_loss(real), 1),
                      (opt_g, lambda: generator_loss(model.logits(model.generator(real)), False), 1))
        return nn.utils.parameters_to_vector(model.discriminator.parameters()).detach()

    def by_hand(player, _):
        (group,), loss = player[0].param_groups, player[1]()
        grads = torch.autograd.grad(loss, group["params"])
        with torch.no_grad():
            for p, grad in zip(group["params"], grads, strict=True):
                p -= group["lr"] * grad

    def careless(*players):
        for optimizer, loss, _ in players:
            loss().backward()                    # that of G goes on into D, and stays until D's next step
            optimizer.step()
            optimizer.zero_grad()

    def off(alternate):
        return (play(alternate) - play(by_hand)).abs().max().item()

    return Check("largest weight of D off steps by hand, 5 rounds", off(core.alternate), hi=1e-6,
                 source="Goodfellow et al. 2014, Algorithm 1",
                 controls={"G's gradient stays in D": off(careless)})


class _Point(nn.Module):
    """A generator that gives one point whatever z is."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.tensor([0.5, -1.0]))

    def forward(self, z):
        return self.point.expand(len(z), 2)


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0):
    """A ring of 8 and the digits: coverage, and whether discriminators can tell."""
    return [*_ring(seed), _digits(seed)]


def points_gan(pack=1, nz=8, **options):
    """A GAN of points in the plane, 128 units a layer."""
    generator, discriminator = core.mlp(nz, 128, 128, 2), core.mlp(2 * pack, 128, 128, 1)
    return GAN(generator, discriminator, nz, pack=pack, lr=1e-3, **options)


def _ring(seed, steps=8000):
    world = worlds.ring()
    set_seed(seed)
    train, test = world.sample(10_000), world.sample(SAMPLES)

    def run(steps=steps, learns=True, **options):
        set_seed(seed)
        model = points_gan(**options)
        model.opt_g.param_groups[0]["lr"] *= learns
        return model.fit(train, steps=steps, seed=seed)

    models = {"non-saturating": run(), "minimax": run(saturating=True), "pack 2": run(pack=2)}
    drawn = {name: model.sample(SAMPLES) for name, model in models.items()}
    greedy = measure.coverage(run(steps // 5, k=5).sample(SAMPLES), world)
    gauss = train.mean(0) + torch.randn(SAMPLES, 2) @ torch.linalg.cholesky(train.T.cov()).T
    source = "chosen on seeds 0 to 2; the truth has 8, .989, 0"
    checks = []
    for name, x in drawn.items():
        got = measure.coverage(x, world)
        checks += [
            Check(f"ring, {name}: modes of 8", got.modes, 8, 8, source,
                  {"k = 5, as many steps of D": greedy.modes}),
            Check(f"ring, {name}: points within 3 sd", got.quality, 0.85, 1, source,
                  {"one Gaussian": measure.coverage(gauss, world).quality}),
            Check(f"ring, {name}: KL of the modes [nats]", got.kl, hi=0.02, source=source,
                  controls={"k = 5, as many steps of D": greedy.kl})]
    points, still = drawn["non-saturating"], run(500, learns=False)
    with torch.no_grad():
        told, of_still = (measure.accuracy(model.logits(test), model.logits(model.sample(SAMPLES)))
                          for model in (models["non-saturating"], still))
    return checks + [
        Check("ring: accuracy of D, held-out against generated", told, 0.48, 0.75,
              "1/2 at the equilibrium, less two standard errors", {"G that does not learn": of_still}),
        Check("ring: accuracy of a new D, held-out against generated", measure.tell_apart(test, points),
              hi=0.8, source="chosen beforehand", controls={"one Gaussian": measure.tell_apart(test, gauss)})]


def _digits(seed):
    (train, _), (test, labels) = worlds.digits()
    train, test = (2 * images.flatten(1) - 1 for images in (train, test))
    set_seed(seed)
    model = GAN(core.mlp(16, 128, 128, 64), core.mlp(64, 128, 128, 1), 16, r1=0.1, lr=5e-4)
    model.fit(train, steps=6000, seed=seed)
    apart = train[torch.randint(len(train), (SAMPLES, 64)), torch.arange(64)]        # pixel by pixel
    share, *broken = (measure.class_shares(x, test, labels).min().item()
                      for x in (model.sample(SAMPLES), model.sample(1), apart))
    return Check("digits: share of the rarest of 10 classes", share, 0.05, 0.1,
                 "judged by the 3 nearest held-out digits; at 0.02 pixels by themselves would pass",
                 dict(zip(("one digit", "each pixel for itself"), broken, strict=True)))


# ---------------------------------------------------------------------------------------------------- animals

def augment(x):
    """Mirror, shift, zoom and brightness at random: images (n, 3, S, S) in [-1, 1] -> the same shape.

    Differentiable; after Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS
    2020. Beyond the border the picture is mirrored.
    """
    n = len(x)
    mirror, zoom = torch.randint(2, (n,)) * 2 - 1, 1 + 0.1 * (torch.rand(n) - 0.5)
    frame = torch.zeros(n, 2, 3)
    frame[:, 0, 0], frame[:, 1, 1] = mirror * zoom, zoom
    frame[:, :, 2] = (torch.rand(n, 2) - 0.5) / 2                # up to 1/8 of the picture either way
    x = F.grid_sample(x, F.affine_grid(frame, x.shape, align_corners=False), padding_mode="reflection",
                      align_corners=False)
    return x + 0.4 * (torch.rand(n, 1, 1, 1) - 0.5)


def image_layers(width, activation):
    """Layers (n, 3, 32, 32) -> (n, 64 width): three convolutions, each to half the side, a list.

    No batch normalisation: with it D would tell batches apart.
    """
    layers = []
    for n_in, n_out in itertools.pairwise((3, width, 2 * width, 4 * width)):
        layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), activation]
    return [*layers, nn.Flatten()]


def image_discriminator(width=32):
    """Images (n, 3, 32, 32) -> logits (n, 1)."""
    return nn.Sequential(*image_layers(width, nn.LeakyReLU(0.2)), nn.Linear(64 * width, 1))


def animals(data, seed=0, steps=3000):
    """The GAN of images (n, 3, S, S) in [-1, 1] at 32 x 32: the generator of ABP, a DCGAN's discriminator.

    Radford, Metz and Chintala, DCGAN, ICLR 2016.
    """
    set_seed(seed)
    model = GAN(GenNet(nz=16, img_size=32, hidden=128, width=12), image_discriminator(), 16, augment=augment,
                r1=0.1, lr=1e-3, beta1=0.0, batch=24, average=0.995)
    return model.fit(to_side(data, 32), steps=steps, seed=seed)
