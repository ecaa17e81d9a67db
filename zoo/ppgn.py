"""Plug and play generative networks (PPGN): a prior of codes, a generator, a classifier.

    p(h | y)  prop. to  p(h) C(y | G(h))
    h <- h + e1 (R(h) - h) + e2 d/dh log C(y | G(h)) + e3 n,    n ~ N(0, I)

Nguyen, Clune, Bengio, Dosovitskiy and Yosinski, Plug & Play Generative Networks, CVPR 2017. R is a
denoising autoencoder for noise of std s: the optimal one has R(h) - h = s^2 d/dh log p_s(h), where
p_s is p smoothed by N(0, s^2 I) (Alain and Bengio, JMLR 2014). With e1 = t^2 / (2 s^2), e2 = t^2 /
2 and e3 = t the update is Langevin dynamics with step t on p_s(h) C(y | G(h)). Where the prior is
known, as that of ABP's latent is, inference.samplers.mala adds the Metropolis test.

    DGN-AM     R = 0, as for N(0, I): an L2 penalty on h; no noise
    PPGN-x     h is the item itself, R a denoiser of items
    PPGN-h     R a denoiser of codes
    Joint      R(h) = E(G(h)), E the encoder whose codes G inverts, G trained with noise on both
    noiseless  the same without noise in training and update

Differences from the released sampler: the gradient is that of log softmax, not of the logit alone;
steps are not divided by the norm of their gradient; codes are not clipped, but R is bounded
(tanh); e1 has its factor 1 / s^2; and G has no adversary, only image and feature losses.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from inference.measures import to_side
from inference.samplers import TARGET_GRADIENT, mala
from zoo import abp
from zoo.gan import augment
from zoo.networks import mlp, n_parameters
from zoo.train import descend

BATCH = 128                      # items of a learning step


class Rates(NamedTuple):
    """Factors of the three terms of the update."""
    prior: float                 # e1, of R(h) - h
    steer: float                 # e2, of d/dh log C
    noise: float                 # e3, std in units of h


def langevin_rates(t, s, weight=1.0):
    """Rates of Langevin dynamics with step t on p_s(h) C(y | G(h))^weight; s is the std of R."""
    return Rates(t**2 / (2 * s**2), weight * t**2 / 2, t)


def log_class(logits, y):
    """log C(y | x) in nats of logits (n, classes), y a class or (n,) -> (n,)."""
    return -F.cross_entropy(logits, torch.as_tensor(y).expand(len(logits)), reduction="none")


def gradient(function, h):
    """d/dh of a function of codes, (n, ...) -> (n,): one gradient per code, detached."""
    with torch.enable_grad():
        h = h.detach().requires_grad_(True)
        return torch.autograd.grad(function(h).sum(), h)[0]  # sum: chains stay independent


@torch.no_grad()
def update(h, denoise, log_c, rates):
    """One step on codes h (n, ...) -> the same.

    denoise  R, codes -> codes
    log_c    codes -> log C(y | G(h)) (n,), in nats
    """
    steer = gradient(log_c, h) if rates.steer else 0
    drift = rates.prior * (denoise(h) - h) + rates.steer * steer
    return h + drift + rates.noise * torch.randn_like(h)


class PPGN:
    """One variant.

    generator   G, codes h (n, d) -> items (n, D)
    denoise     R, codes -> codes
    classifier  C, items -> logits (n, classes)
    rates       Rates of the update
    d           dimension of a code
    """

    def __init__(self, generator, denoise, classifier, rates, d):
        self.generator, self.denoise, self.classifier = generator, denoise, classifier
        self.rates, self.d = rates, d

    def logits(self, h):
        """Logits of C at G(h): (n, d) -> (n, classes)."""
        return self.classifier(self.generator(h))

    def chains(self, h, y, n_steps):
        """Codes after n_steps updates from h (n, d), each towards its class y (n,) -> (n, d)."""
        for _ in range(n_steps):
            h = update(h, self.denoise, lambda h: log_class(self.logits(h), y), self.rates)
        return h

    @torch.no_grad()
    def sample(self, y, n_steps=300):
        """G(h) at the ends of chains from N(0, I) towards the classes y (n,): items (n, D)."""
        return self.generator(self.chains(torch.randn(len(y), self.d), y, n_steps))


def learn(modules, loss, steps, lr=2e-3):
    """Minimise loss() -> () in the weights of the modules, then fix these weights."""
    descend([p for module in modules for p in module.parameters()], loss, steps, lr)
    for module in modules:
        module.requires_grad_(False)


def batch(items):
    """BATCH rows of items (n, ...), drawn at random."""
    return items[torch.randint(len(items), (BATCH,))]


def fit_denoiser(denoiser, draw, s, steps, lr=2e-3):
    """Minimise E |R(h + s n) - h|^2, n ~ N(0, I), on codes draw() (n, d) -> denoiser."""
    def loss():
        h = draw()
        return (denoiser(h + s * torch.randn_like(h)) - h).square().sum(1).mean()

    learn([denoiser], loss, steps, lr)
    return denoiser


def fit_classifier(net, x, labels, steps=1000, noise=0.1):
    """Fit the logits of items x (n, ...), with noise of this std, to their labels (n,) -> net."""
    def loss():
        rows = torch.randint(len(x), (BATCH,))
        return F.cross_entropy(net(x[rows] + noise * torch.randn_like(x[rows])), labels[rows])

    learn([net], loss, steps)
    return net


class Codes:
    """An encoder E of items x (n, D), two generators that invert it, and two denoisers.

    E is the encoder of an autoencoder, with codes (n, d) of mean 0 and covariance I over x. A
    generator G learns that G(h) equals x, and that E's first layer and code of G(h) equal those of
    x, from h = E(x) (`plain`) or from h = E(x + s_x n) + s n (`noisy`), whose R(h) = E(G(h))
    removes noise. `of_codes` and `of_items` denoise codes and items with noise of std s. All are
    bounded by tanh, so that chains stay near the data.
    """

    def __init__(self, x, d=16, steps=2000):
        self.x, self.d, self.s = x, d, 0.5
        self.first = nn.Sequential(nn.Linear(x.shape[1], 128), nn.Tanh())
        rest = mlp(128, 128, d, activation=nn.Tanh)
        back = mlp(d, 128, 128, x.shape[1], activation=nn.Tanh)

        def reconstruction_error():
            items = batch(x)
            return (back(rest(self.first(items))) - items).square().sum(1).mean()

        learn([self.first, rest, back], reconstruction_error, steps)
        codes = rest(self.first(x))
        whiten = torch.linalg.inv(torch.linalg.cholesky(codes.T.cov())).T
        self.encode = lambda x: (rest(self.first(x)) - codes.mean(0)) @ whiten  # (n, D) -> (n, d)
        self.codes = self.encode(x)
        self.plain, self.noisy = self._invert(steps, 0, 0), self._invert(steps, self.s, 0.1)
        self.of_codes, self.of_items = (mlp(n, 256, 256, n, activation=nn.Tanh)
                                        for n in (d, x.shape[1]))
        fit_denoiser(self.of_codes, lambda: batch(self.codes), self.s, 2 * steps)
        fit_denoiser(self.of_items, lambda: batch(x), self.s, 2 * steps)

    def _invert(self, steps, s, s_x):
        generator = mlp(self.d, 128, 128, self.x.shape[1], activation=nn.Tanh)

        def loss():
            items = batch(self.x)
            h = self.encode(items + s_x * torch.randn_like(items))
            made = generator(h + s * torch.randn_like(h))
            return sum((see(made) - see(items)).square().sum(1).mean()
                       for see in (nn.Identity(), self.first, self.encode))

        learn([generator], loss, steps)
        return generator


def variants(codes, classifier):
    """The five variants on Codes and a classifier of their items: a dict of PPGN by name.

    C has the exponent 10; with 1 the samples include items of which C is uncertain.
    """
    t = 0.2
    rates, plain, noisy = langevin_rates(t, codes.s, 10.0), codes.plain, codes.noisy
    ascent = Rates(t**2 / 2, rates.steer, 0.0)                                 # N(0, I) as prior
    noiseless = Rates(rates.steer / 40, rates.steer, 0.0)

    def variant(generator, denoise, rates, d=codes.d):
        return PPGN(generator, denoise, classifier, rates, d)

    return {"DGN-AM": variant(plain, torch.zeros_like, ascent),
            "PPGN-x": variant(nn.Identity(), codes.of_items, rates, codes.x.shape[1]),
            "PPGN-h": variant(plain, codes.of_codes, rates),
            "Joint": variant(noisy, lambda h: codes.encode(noisy(h)), rates),
            "noiseless": variant(plain, lambda h: codes.encode(plain(h)), noiseless)}


class Steered:
    """Images of given kinds from ABP's generator: draws of p(z | y) by MALA, prior N(0, I).

    model       zoo.abp.Alternating
    classifier  images -> logits (n, classes)
    """

    def __init__(self, model, classifier, classes):
        self.net, self.nz, self.classifier = model.net, model.config.nz, classifier
        self.classes = classes
        self.n_parameters = model.n_parameters + n_parameters(classifier)

    def sample(self, n, n_steps=150):
        """n images (n, 3, S, S), their kinds in turn."""
        y = torch.arange(n) % self.classes

        def target(z):
            return z.square().sum(1) / 2 - log_class(self.classifier(self.net(z)), y)

        tuned = mala(target, torch.randn(n, self.nz), 60, 0.3, TARGET_GRADIENT)    # burn-in
        with torch.no_grad():
            return self.net(mala(target, tuned.z, n_steps, tuned.step).z)


def face_classifier(side=16, classes=2):
    """Convolutions: faces (n, 3, side, side) -> logits (n, classes)."""
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(side**2, classes))


def animals(data, kinds, side=32, **options):
    """ABP's generator of images (n, 3, S, S) in [-1, 1] at 32 x 32, steered towards their kinds.

    kinds    of the images, n texts; the classifier learns them from augmented copies of the images
    options  of abp.Config, except prior_sigma, which is 1
    """
    names, x = sorted(set(kinds)), to_side(data, side)
    y = torch.tensor([names.index(kind) for kind in kinds])
    copies = torch.cat([augment(x) for _ in range(40)])
    classifier = fit_classifier(face_classifier(side, len(names)), copies, y.repeat(40), steps=300)
    model = abp.Alternating(abp.settings(side, **options), x)
    return Steered(model, classifier, len(names))
