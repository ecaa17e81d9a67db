"""What a boundary-seeking GAN optimises: weights of samples, losses of generators, and their closed forms.

A discriminator's logit F estimates log p/q, of the data p and of the generator q. For an f-divergence with
conjugate f*, F gives the statistic T = nu(F), and

    V(F) = E_p nu(F) - E_q f*(nu(F)) <= D_f(p || q)                 D ascends it; with = at F = log p/q
    w(x) = df*/dT (nu(F(x))) = e^F(x),   p = w q at the best F      (Theorem 1)

so that samples of q, each with its weight, stand for the data. A generator q(x) = E_z g(x | z) of discrete x
has no dx/dz, but it has log g(x | z), and learns from samples x_nm ~ g(x | z_n), by descending

    - sum_nm w~_nm log g(x_nm | z_n),   w~ = w / sum of w           grad KL(p || q)
    - mean_nm (F - log Z - 1) log g(x_nm | z_n),   Z = E_q w        grad KL(q || p)  (Definition 2.4)

and one of continuous x = G(z) by descending E F(x)^2 through x: it seeks the boundary D = 1/2.

Hjelm, Jacob, Che, Trischler, Cho and Bengio, Boundary-Seeking Generative Adversarial Networks, ICLR 2018:
theorems and definitions are theirs. Their w~ adds up to 1 for each z; the gradient is that of KL(p || q) only
if it adds up over all z, as it does here unless it is said. F is of shape (n, m): m samples for each of n z.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from utils import set_seed
from zoo import gan
from zoo.core import Check, alternate


class Divergence(NamedTuple):
    """D_f(p || q) = E_q f(p / q); each function maps a tensor to one of the same shape."""
    f: Callable                  # u = p / q > 0 -> f(u)
    nu: Callable                 # logit F -> T, in the domain of f*; f'(u) = nu(log u)
    conjugate: Callable          # T -> f*(T)


DIVERGENCES = {
    "GAN": Divergence(lambda u: u * u.log() - (u + 1) * (u + 1).log(),       # D_f = 2 JSD - log 4
                      lambda logit: -F.softplus(-logit),
                      lambda t: -(-torch.expm1(t)).log()),
    "Jensen-Shannon": Divergence(lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),        # D_f = 2 JSD
                                 lambda logit: math.log(2) - F.softplus(-logit),
                                 lambda t: -(2 - t.exp()).log()),
    "KL": Divergence(lambda u: u * u.log(), lambda logit: logit + 1, lambda t: (t - 1).exp()),
    "reverse KL": Divergence(lambda u: -u.log(), lambda logit: -(-logit).exp(), lambda t: -1 - (-t).log()),
    "squared Hellinger": Divergence(lambda u: (u.sqrt() - 1).square(), lambda logit: 1 - (-logit / 2).exp(),
                                    lambda t: t / (1 - t)),
}


def bound(logit_p, logit_q, divergence, p=None, q=None):
    """V(F) of logits (n,), (m,) of items of p and of q -> ().

    p, q  shares (n,), (m,) of these items; None: all are as likely, as samples are
    """
    def mean(values, share):
        return values.mean() if share is None else (share * values).sum()

    f_star = divergence.conjugate(divergence.nu(logit_q))
    return mean(divergence.nu(logit_p), p) - mean(f_star, q)


def weights(logit, divergence):
    """w = df*/dT at T = nu(F), by autograd, of the shape of logit; e^F whatever the divergence."""
    t = divergence.nu(logit).detach().requires_grad_(True)
    return torch.autograd.grad(divergence.conjugate(t).sum(), t)[0]


def normalised(logit, per_z=False):
    """w~ of logits (n, m), detached; all add up to 1, those of each z to 1 / n if per_z.

    A z whose samples are all the same has equal weights per_z, whatever D thinks of that sample: it cannot
    learn that there are better ones.
    """
    logit = logit.detach()
    return logit.softmax(1) / len(logit) if per_z else logit.flatten().softmax(0).view_as(logit)


def importance_loss(w, log_g):
    """-sum w~ log g, of weights (n, m) that add up to 1 and log g(x | z) (n, m) -> ()."""
    return -(w * log_g).sum()


def reinforce_loss(logit, log_g, log_z):
    """-mean (F - log Z - 1) log g, the reward held fixed, of logits (n, m) and log g(x | z) (n, m) -> ()."""
    return -((logit.detach() - log_z - 1) * log_g).mean()


def log_mean_weight(logit):
    """log Z of a batch: the log of the mean of e^F over all logits -> ()."""
    return logit.detach().flatten().logsumexp(0) - math.log(logit.numel())


def squared_loss(logit):
    """E F^2 of the logits of items (n,), with a gradient to them -> (); least, 0, where D = 1/2."""
    return logit.square().mean()


def effective_size(logit):
    """1 / sum of w~^2 of the m samples of a z, (n, m) -> (n,): m if all weigh the same, 1 if one is all."""
    return 1 / logit.detach().softmax(1).square().sum(1)


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
