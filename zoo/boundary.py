"""What a boundary-seeking GAN optimises: weights of samples, and losses of generators.

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
