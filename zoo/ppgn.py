"""Plug and play generative networks (PPGN): a prior of codes, a generator, and any classifier that steers.

    p(h | y)  prop. to  p(h) C(y | G(h))
    h <- h + e1 (R(h) - h) + e2 d/dh log C(y | G(h)) + e3 n,    n ~ N(0, I)

Nguyen, Clune, Bengio, Dosovitskiy and Yosinski, Plug & Play Generative Networks, CVPR 2017. R is a denoising
autoencoder, taught to take noise of std s away: at its best R(h) - h = s^2 d/dh log p_s(h), where p_s is p
smoothed by N(0, s^2 I) (Alain and Bengio, JMLR 2014). So the update is Langevin dynamics, with the step t of
samplers.langevin, on p_s(h) C(y | G(h)) if e1 = t^2 / (2 s^2), e2 = t^2 / 2 and e3 = t. A Metropolis test
needs the density itself: where the prior is known, as that of ABP's latent is, samplers.mala has one.

    DGN-AM     R = 0, as of N(0, I): an L2 penalty on h; no noise
    PPGN-x     h is the item itself, R a denoiser of items
    PPGN-h     R a denoiser of codes
    Joint      R(h) = E(G(h)), E the encoder whose codes G turns into items, G taught with noise on both
    noiseless  the same with no noise, neither in teaching nor in the update

Deliberately not as in the released sampler: the gradient is that of log softmax, not of the target's logit
alone; no step is divided by the size of its gradient, so that noise stays noise; codes are not clipped, but R
is bounded (tanh); and e1 has its 1 / s^2. G has no adversary: for 64 pixels image and feature losses are
enough.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from inference.measures import to_side
from inference.samplers import TARGET_GRADIENT, mala
from zoo import abp
from zoo.codes import fit_classifier
from zoo.core import n_parameters
from zoo.gan import augment


class Rates(NamedTuple):
    """What multiplies the three terms of the update."""
    prior: float                 # e1, of R(h) - h
    steer: float                 # e2, of d/dh log C
    noise: float                 # e3, std in units of h


def langevin_rates(t, s, weight=1.0):
    """The Rates of Langevin dynamics with step t on p_s(h) C(y | G(h))^weight, s the std of R's noise."""
    if t <= 0 or s <= 0:
        raise ValueError(f"the step and the noise of the denoiser must be above 0; they are {t}, {s}")
    return Rates(t**2 / (2 * s**2), weight * t**2 / 2, t)


def log_class(logits, y):
    """log C(y | x) in nats of logits (n, classes), y a class or (n,) -> (n,)."""
    y = torch.as_tensor(y).expand(len(logits))
    return -F.cross_entropy(logits, y, reduction="none")


def gradient(function, h):
    """d/dh of a function of codes, (n, ...) -> (n,): one gradient for each code, like h, detached."""
    with torch.enable_grad():
        h = h.detach().requires_grad_(True)
        return torch.autograd.grad(function(h).sum(), h)[0]      # sum, not mean: each chain keeps its own


@torch.no_grad()
def update(h, denoise, log_c, rates):
    """One step on codes h (n, ...) -> the same.

    denoise  R, codes -> codes
    log_c    codes -> log C(y | G(h)) (n,), in nats
    """
    steer = gradient(log_c, h) if rates.steer else 0
    return h + rates.prior * (denoise(h) - h) + rates.steer * steer + rates.noise * torch.randn_like(h)


class PPGN:
    """A variant: what it moves codes with, and what shows them.

    generator   G, codes h (n, d) -> items (n, D)
    denoise     R, codes -> codes
    classifier  C, items -> logits (n, classes)
    rates       Rates of the update
    d           numbers of a code
    """

    def __init__(self, generator, denoise, classifier, rates, d):
        self.generator, self.denoise, self.classifier = generator, denoise, classifier
        self.rates, self.d = rates, d

    def logits(self, h):
        """Those of C at G(h): (n, d) -> (n, classes)."""
        return self.classifier(self.generator(h))

    def chains(self, h, y, n_steps):
        """Codes after n_steps updates from h (n, d), each towards its class y (n,) -> (n, d)."""
        for _ in range(n_steps):
            h = update(h, self.denoise, lambda h: log_class(self.logits(h), y), self.rates)
        return h

    @torch.no_grad()
    def sample(self, n, y=None, n_steps=300):
        """G(h) at the ends of n chains from N(0, I): items (n, D); y (n,) classes, at random if None."""
        if y is None:
            y = torch.randint(self.logits(torch.zeros(1, self.d)).shape[1], (n,))
        if len(y) != n:
            raise ValueError(f"{n} chains need as many classes, not {len(y)}")
        return self.generator(self.chains(torch.randn(n, self.d), y, n_steps))


def face_classifier(side=16, classes=2):
    """Faces (n, 3, side, side) -> logits (n, classes), by convolutions."""
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(side**2, classes))


def variants(codes, classifier, t=0.2, weight=10.0):
    """The variants on trained Codes and a classifier of their items, as a dict of PPGN by name.

    With weight 1 chains sample p_s(h) C(y | G(h)), which holds items of which C is in doubt; 10 avoids them.
    """
    rates, plain, noisy = langevin_rates(t, codes.s, weight), codes.plain, codes.noisy
    hill = Rates(t**2 / 2, rates.steer, 0.0)                                   # ascent, N(0, I) as prior

    def made(generator, denoise, rates, d=codes.d):
        return PPGN(generator, denoise, classifier, rates, d)

    return {"DGN-AM": made(plain, torch.zeros_like, hill),
            "PPGN-x": made(nn.Identity(), codes.of_items, rates, codes.x.shape[1]),
            "PPGN-h": made(plain, codes.of_codes, rates),
            "Joint": made(noisy, lambda h: codes.encode(noisy(h)), rates),
            "noiseless": made(plain, lambda h: codes.encode(plain(h)),
                              Rates(rates.steer / 40, rates.steer, 0.0))}


# ---------------------------------------------------------------------------------------------------- animals

class Steered:
    """Images of wanted kinds out of a generator of ABP: draws of p(z | y) by MALA, whose prior is N(0, I).

    model       zoo.abp.Alternating
    classifier  images -> logits (n, classes); its classes have one probability each before it speaks
    """

    def __init__(self, model, classifier, classes):
        self.net, self.nz, self.classifier, self.classes = model.net, model.config.nz, classifier, classes
        self.n_parameters = model.n_parameters + n_parameters(classifier)

    def sample(self, n, n_steps=150):
        """n images (n, 3, S, S), their kinds in turn."""
        y = torch.arange(n) % self.classes

        def target(z):
            return z.square().sum(1) / 2 - log_class(self.classifier(self.net(z)), y)

        tuned = mala(target, torch.randn(n, self.nz), 60, 0.3, TARGET_GRADIENT)    # and out of the wrong kind
        with torch.no_grad():
            return self.net(mala(target, tuned.z, n_steps, tuned.step).z)


def animals(data, seed=0, kinds=(), side=32, **options):
    """ABP's generator of images (n, 3, S, S) in [-1, 1] at 32 x 32, steered towards each of their kinds.

    kinds    what each image is, n texts
    options  of abp.Config, but for prior_sigma, which is 1

    C learns the kinds of the same images, changed at random as the GAN's discriminator sees them.
    """
    names, x = sorted(set(kinds)), to_side(data, side)
    y = torch.tensor([names.index(kind) for kind in kinds])
    changed = torch.cat([augment(x) for _ in range(40)])
    classifier = fit_classifier(face_classifier(side, len(names)), changed, y.repeat(40), steps=300)
    return Steered(abp.Alternating(abp.settings(side, seed, **options), x), classifier, len(names))
