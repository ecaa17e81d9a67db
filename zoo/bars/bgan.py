"""What BGAN is held to: weights and gradients against enumeration; bars and stripes; the continuous form."""
from statistics import mean

import torch
from torch.nn import functional as F

from runs.files import set_seed
from zoo import datasets, gan, metrics, networks
from zoo.bgan import BGAN, ContinuousBGAN, bits_gan, draw
from zoo.boundary import (
    DIVERGENCES,
    bound,
    importance_loss,
    log_mean_weight,
    normalised,
    reinforce_loss,
    squared_loss,
    weights,
)
from zoo.core import Check
from zoo.train import alternate

SAMPLES = 3000                   # that measure coverage


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """The table, the gradients of the losses against enumerated ones, and where they lead."""
    return [*_table(), *_gradients(), *_descents(), _at_the_boundary()]


def _table():
    """Weights are e^F for every divergence, and V is D_f at the best F, of two distributions of 8 values."""
    logit = torch.linspace(-4, 4, 32, dtype=torch.float64)

    def off(w):
        return (w / logit.exp() - 1).abs().max().item()

    checks = [
        Check(f"{name}: largest relative error of df*/dT at nu(F) to e^F", off(weights(logit, d)), hi=1e-6,
              source="Hjelm et al. 2018, Theorem 1",
              controls={"D as the weight": off(logit.sigmoid()),
                        "T = F": off(weights(logit, d._replace(nu=lambda t: t)))})
        for name, d in DIVERGENCES.items()]
    p, q = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 12], [9, 8, 7, 6, 4, 3, 2, 1]]).double() / 40

    def short(scale):
        at = scale * (p / q).log()
        return [((q * d.f(p / q)).sum() - bound(at, at, d, p, q)).abs().item() for d in DIVERGENCES.values()]

    return [*checks, Check("largest |D_f - V| of the five divergences, F = log p/q [nats]", max(short(1.0)),
                           hi=1e-9, source="by enumeration of 8 values",
                           controls={"F 10 % too small, least": min(short(0.9))})]


class _Tabular:
    """g(x | z) of 30 states for each of k values of z, by a table of logits (k, 30), and p to be learned."""

    def __init__(self, k, sharpness=0.5, seed=0):
        set_seed(seed)
        self.p = torch.randn(30, dtype=torch.float64).softmax(0)
        self.table = (sharpness * torch.randn(k, 30, dtype=torch.float64)).requires_grad_(True)

    def q(self):
        """q(x), (30,)."""
        return self.table.softmax(1).mean(0)

    def batch(self, n=64, m=16):
        """The true log p/q and log g of m samples of each of n z: (n, m), (n, m)."""
        log_g = self.table.log_softmax(1)[torch.randint(len(self.table), (n,))]
        x = torch.multinomial(log_g.detach().exp(), m, replacement=True)
        return (self.p / self.q()).log().detach()[x], log_g.gather(1, x)

    def errors(self, loss, wanted, repeats=200):
        """Errors of the mean gradient of loss(F, log g) to a wanted one, in its standard errors: (k, 30)."""
        found = torch.stack([torch.autograd.grad(loss(*self.batch()), self.table)[0] for _ in range(repeats)])
        return (found.mean(0) - wanted) / (found.std(0) / repeats**0.5)

    def learn(self, loss, steps=500, lr=0.1):
        """KL(p || q) in nats after Adam on loss(F, log g), lr to 0 along a line."""
        optimizer = torch.optim.Adam([self.table], lr, fused=True)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(steps):
            alternate((optimizer, lambda: loss(*self.batch()), 1))
            falling.step()
        return _kl(self.p, self.q()).item()


def _kl(p, q):
    return (p * (p / q).log()).sum()


def _by_weights(logit, log_g):
    return importance_loss(normalised(logit), log_g)


def _by_weights_of_each_z(logit, log_g):
    return importance_loss(normalised(logit, per_z=True), log_g)


def _by_d(logit, log_g):
    return importance_loss(normalised(F.logsigmoid(logit)), log_g)


def _by_nothing(logit, log_g):
    return -log_g.mean()


def _by_reward(logit, log_g):
    return reinforce_loss(logit, log_g, log_mean_weight(logit))


def _by_log_d(logit, log_g):
    return -(F.logsigmoid(logit.detach()) * log_g).mean()


def _gradients():
    """With the true ratio, the mean gradient of 200 batches is the enumerated one, for one z and for four."""
    one, four = _Tabular(1), _Tabular(4, sharpness=1.0)
    to_p = (one.q() - one.p).detach()[None]
    (of_kl,) = torch.autograd.grad(_kl(four.p, four.q()), four.table)
    (of_reverse,) = torch.autograd.grad(_kl(four.q(), four.p), four.table)

    def largest(loss):
        return one.errors(loss, to_p).abs().max().item()

    def rms(loss, wanted):
        return four.errors(loss, wanted).square().mean().sqrt().item()

    source = "by enumeration; 1, and at most three times its own spread more"
    return [
        Check("softmax: gradient less q - p, largest of 30 [standard errors]", largest(_by_weights), hi=3.0,
              source="by enumeration", controls={"uniform weights": largest(_by_nothing),
                                                 "D as the weight": largest(_by_d)}),
        Check("4 softmaxes: gradient less that of KL(p || q), RMS of 120 [standard errors]",
              rms(_by_weights, of_kl), hi=1.2, source=source,
              controls={"weights add up for each z": rms(_by_weights_of_each_z, of_kl)}),
        Check("4 softmaxes: REINFORCE less the gradient of KL(q || p), RMS of 120 [standard errors]",
              rms(_by_reward, of_reverse), hi=1.2, source=source,
              controls={"log D as the reward": rms(_by_log_d, of_reverse),
                        "weights, not rewards": rms(_by_weights, of_reverse)})]


def _descents():
    """500 steps with the true ratio: of one softmax, and of 8 that begin with a few states each."""
    def learned(loss, k, sharpness):
        return _Tabular(k, sharpness).learn(loss)

    source = "chosen beforehand; exact KL"
    return [
        Check("softmax: KL(p || q) after 500 steps [nats]", learned(_by_weights, 1, 0.5), hi=0.01,
              source=source, controls={"uniform weights": learned(_by_nothing, 1, 0.5)}),
        Check("8 sharp softmaxes: KL(p || q) after 500 steps [nats]", learned(_by_weights, 8, 4.0), hi=0.01,
              source=source, controls={"weights add up for each z": learned(_by_weights_of_each_z, 8, 4.0)})]


def _at_the_boundary():
    """E F^2 asks nothing of G where D = 1/2; the GAN's losses do."""
    def slope(loss):
        logit = torch.zeros(4, requires_grad=True)
        return torch.autograd.grad(loss(logit), logit)[0].abs().sum().item()

    return Check("|slope| of E F^2 in the logits at D = 1/2", slope(squared_loss), hi=0.0, source="by hand",
                 controls={"non-saturating": slope(lambda logit: gan.generator_loss(logit, False)),
                           "minimax": slope(lambda logit: gan.generator_loss(logit, True))})


# ------------------------------------------------------------------------------------------------------ bench

class ByProbabilities(BGAN):
    """A control: D reads sigmoid(a), as numbers from -1 to 1, in place of bits, and its slope teaches G."""

    def made(self, z, generator=None):
        """2 sigmoid(a) - 1 at z (n, nz), with a gradient in training; bits (n, ...) afterwards."""
        logits = (generator or self.generator)(z)
        return (logits / 2).tanh() if self.generator.training else draw(logits)

    def generator_loss(self):
        """The non-saturating loss of a GAN -> ()."""
        return gan.GAN.generator_loss(self)


class Blind(BGAN):
    """A control: the channel is D's alone, and g is what it was before it."""

    def seen(self, logits):
        """The logits themselves."""
        return logits


def bench(seed=0):
    """Bars and stripes against their 30 patterns, and the continuous form on a ring of 8."""
    return [*_bars(seed), *_ring(seed)]


def _bars(seed, steps=2500):
    world = datasets.bars_and_stripes()

    def run(steps=steps, learns=True, **options):
        set_seed(seed)
        model = bits_gan(**options)
        model.opt_g.param_groups[0]["lr"] *= learns
        return model.fit(world.patterns, steps=steps, seed=seed)

    def covered(model):
        return metrics.pattern_coverage(model.sample(SAMPLES), world)

    model, uniform = run(), covered(run(steps // 5, form="uniform"))
    got = covered(model)
    per_z = covered(run(form="per z"))
    others = {"REINFORCE": run(form="reinforce"), "D reads probabilities": run(make=ByProbabilities)}
    blind = {f"no channel in g{name}": covered(run(make=Blind, form=form))
             for name, form in (("", "batch"), (", weights for each z", "per z"))}
    won = run(600, learns=False, flips=0.0, r1=0.0, k=5)
    source = "beforehand, the settings on seeds 0 to 2; the truth has {}"
    return [
        Check("bars and stripes: share of samples that are one", got.quality, 0.6, 1,
              source.format("1, independent pixels .0005"), {"uniform weights": uniform.quality}),
        Check("bars and stripes: modes of 30", got.modes, 28, 30, source.format("30"),
              {name: x.modes for name, x in blind.items()}),
        Check("bars and stripes: KL of the modes [nats]", got.kl, hi=0.15, source=source.format("0"),
              controls={name: x.kl for name, x in blind.items()}),
        Check("bars and stripes: KL of the modes less that with weights for each z [nats]", got.kl - per_z.kl,
              hi=0.0, source=f"Hjelm et al. 2018 add up w~ for each z, which gives {per_z.kl:.3f}",
              controls={"uniform weights": uniform.kl - per_z.kl}),
        *[Check(f"bars and stripes, {name}: KL of the modes [nats]", covered(other).kl, hi=1.0,
                source="to compare with the row of BGAN; the bound is wide", controls={
                    "uniform weights": uniform.kl}) for name, other in others.items()],
        Check("bars and stripes: effective samples of 16, mean of all steps", mean(model.sizes), lo=2.0,
              source="chosen beforehand", controls={"D has won: 5 steps to none of G": mean(won.sizes)})]


def _ring(seed, steps=5000):
    world = datasets.ring()
    set_seed(seed)
    train = world.sample(10_000)

    def run(steps=steps, **options):
        set_seed(seed)
        model = ContinuousBGAN(networks.mlp(8, 128, 128, 2), networks.mlp(2, 128, 128, 1), 8, lr=1e-3, **options)
        return metrics.coverage(model.fit(train, steps=steps, seed=seed).sample(SAMPLES), world)

    gauss = metrics.one_gaussian(train, SAMPLES)
    got, greedy = run(), run(steps // 5, k=5)
    source, broken = "as for the GAN; the truth has 8, .989, 0", "k = 5, as many steps of D"
    return [Check("ring, continuous form: modes of 8", got.modes, 8, 8, source, {broken: greedy.modes}),
            Check("ring, continuous form: points within 3 sd", got.quality, 0.85, 1, source,
                  {"one Gaussian": metrics.coverage(gauss, world).quality}),
            Check("ring, continuous form: KL of the modes [nats]", got.kl, hi=0.02, source=source,
                  controls={broken: greedy.kl})]
