"""Boundary-seeking GAN (BGAN): a generator of bits, trained on weighted samples of its own.

    z ~ N(0, I),   g(x | z) = prod_i sigmoid(x_i a_i(z)),   x in {-1, 1}^d,   a(z) logits of G

    (1) discriminate:  ascend V(F) = E log D(x) + E log(1 - D(x')), D = sigmoid(F), in D's weights
    (2) generate:      z_n ~ N(0, I), x_nm ~ g(x | z_n); descend -sum_nm w_nm log g(x_nm | z_n) in
                       G's weights, with w_nm = e^F(x_nm) / sum of e^F over all n and m held fixed

Hjelm, Jacob, Che, Trischler, Cho and Bengio, Boundary-Seeking Generative Adversarial Networks, ICLR
2018, Algorithm 1. At its best F = log p/q, so that samples of q weighted by e^F stand for the data
p, and step (2) follows the gradient of KL(p || q). This holds only if weights are normalised over
the batch; the paper normalises them for each z.

Not in the paper: a channel flips bits of real and generated items before D reads them, at a rate r
that falls to 0. The model of what D reads is g after the channel, so log g is taken there too:
sigmoid(a_i) becomes r + (1 - 2r) sigmoid(a_i). No bit is certain, so every z keeps drawing new
patterns. D has the gradient penalty of gan.py.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from inference.measures import to_side
from zoo import gan
from zoo.networks import mlp

WIDTH = 128                      # of the two hidden layers of G and of D
M = 16                           # samples x of each z in a step of G
EPS = 1e-6                       # least probability of a bit, so that logarithms are finite


class Divergence(NamedTuple):
    """An f-divergence D_f(p || q) = E_q f(p / q); elementwise functions of tensors."""
    nu: Callable                 # logit F -> statistic T = f'(e^F), in the domain of f*
    conjugate: Callable          # T -> f*(T), the convex conjugate of f


DIVERGENCES = {
    "GAN": Divergence(                                       # 2 JSD - log 4
        lambda logit: -F.softplus(-logit), lambda t: -(-torch.expm1(t)).log()),
    "Jensen-Shannon": Divergence(                            # 2 JSD
        lambda logit: math.log(2) - F.softplus(-logit), lambda t: -(2 - t.exp()).log()),
    "KL": Divergence(lambda logit: logit + 1, lambda t: (t - 1).exp()),
    "reverse KL": Divergence(lambda logit: -(-logit).exp(), lambda t: -1 - (-t).log()),
    "squared Hellinger": Divergence(lambda logit: 1 - (-logit / 2).exp(), lambda t: t / (1 - t)),
}


def importance_weights(logit, divergence):
    """w = df*/dT at T = nu(F), the weight of a sample: e^F for every divergence (Theorem 1)."""
    t = divergence.nu(logit).detach().requires_grad_(True)
    return torch.autograd.grad(divergence.conjugate(t).sum(), t)[0]


def importance_loss(logit, log_g):
    """-sum w log g with w = softmax of F over the batch, held fixed: (n, m), (n, m) -> ()."""
    w = logit.detach().flatten().softmax(0).view_as(logit)
    return -(w * log_g).sum()


def squared_loss(logit):
    """E F^2 of the logits of items (n,) -> (); its minimum, 0, is the boundary D = 1/2."""
    return logit.square().mean()


def channel(logits, rate):
    """Logits of bits after each is flipped with probability `rate`; same shape."""
    return torch.logit(rate + (1 - 2 * rate) * logits.sigmoid(), eps=EPS)


def draw(logits):
    """Bits in {-1, 1}, each 1 with probability sigmoid(logit), same shape; no gradient."""
    return 2 * torch.bernoulli(logits.detach().sigmoid()) - 1


def log_bits(x, logits):
    """log g(x | z) = sum_i log sigmoid(x_i a_i), nats: x (n, m, d), a (n, 1, d) -> (n, m)."""
    return F.logsigmoid(x * logits).sum(2)


class BGAN(gan.GAN):
    """A generator of items of d bits and its discriminator.

    The generator has batch normalisation: by the batch in fit, by running means afterwards.

    flips   fraction of bits that the channel flips at first, below 1/2; falls linearly to 0
    nz, r1  as in gan.GAN
    """

    def __init__(self, d=16, nz=6, *, flips=0.07, r1=0.05):
        generator = mlp(nz, WIDTH, WIDTH, d,
                        activation=lambda: nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU()))
        super().__init__(generator, mlp(d, WIDTH, WIDTH, 1), nz, augment=self._flip, r1=r1, lr=3e-3,
                         batch=64)
        self.flips, self.steps = flips, 1

    @property
    def rate(self):
        """Fraction of bits that the channel flips now."""
        return self.flips * (1 - len(self.history) / self.steps)

    def _flip(self, x):
        return torch.where(torch.rand_like(x) < self.rate, -x, x)

    def made(self, z, generator=None):
        """Bits (n, d) in {-1, 1} at z (n, nz), before the channel; no gradient."""
        return draw(super().made(z, generator))

    def channel(self, logits):
        """Logits of the bits after the channel, from those of the generator: (n, d) -> (n, d)."""
        return channel(logits, self.rate)

    def generator_loss(self):
        """importance_loss on M fresh samples of each of a batch of z -> ()."""
        logits = self.channel(self.generator(torch.randn(self.batch, self.nz))).unsqueeze(1)
        x = draw(logits.expand(-1, M, -1))
        with torch.no_grad():
            logit = self.discriminator(x.flatten(0, 1)).view(self.batch, M)
        return importance_loss(logit, log_bits(x, logits))

    def fit(self, data, steps):
        """Algorithm 1 on data (n, d) in {-1, 1} for `steps` steps of G; returns self."""
        self.steps = steps
        self.generator.train()
        super().fit(data, steps)
        self.generator.eval()
        return self


class ContinuousBGAN(gan.GAN):
    """The form for continuous items: G descends E F^2, towards F = 0 from both sides."""

    def generator_loss(self):
        """E F^2 on fresh fakes -> ()."""
        return squared_loss(self.logits(self.made(torch.randn(self.batch, self.nz))))


SIDE = 16                        # of a black-and-white picture, pixels


class Silhouettes(BGAN):
    """A BGAN of black-and-white pictures."""

    def sample(self, n):
        """n images (n, 3, SIDE, SIDE); every value is -1 or 1, the same in all colours."""
        return to_images(super().sample(n))


def to_bits(images):
    """Images (n, 3, S, S) -> bits (n, SIDE^2): 1 where grey is above the median of the image."""
    grey = to_side(images, SIDE).mean(1).flatten(1)
    return torch.where(grey > grey.median(1, keepdim=True).values, 1.0, -1.0)


def to_images(bits):
    """Bits (n, SIDE^2) -> images (n, 3, SIDE, SIDE)."""
    return bits.view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)


def seen(images):
    """Images (n, 3, S, S) in [-1, 1] -> (n, 3, SIDE, SIDE), black and white."""
    return to_images(to_bits(images))


def animals(data, steps=3000):
    """BGAN of images (n, 3, S, S) in [-1, 1] and their mirror images, in black and white."""
    model = Silhouettes(SIDE**2, nz=8, flips=0.2, r1=0.5)    # large values suit few images
    return model.fit(to_bits(torch.cat([data, data.flip(3)])), steps)
