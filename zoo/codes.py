"""The parts of a PPGN: classifiers, denoisers, and codes with generators that invert them.

Each network is trained first and fixed afterwards.
"""
import torch
from torch import nn
from torch.nn import functional as F

from zoo.networks import mlp
from zoo.train import descend

BATCH = 128


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

    def __init__(self, x, d=16, s=0.5, s_x=0.1, steps=2000):
        self.x, self.d, self.s = x, d, s
        self.first = nn.Sequential(nn.Linear(x.shape[1], 128), nn.Tanh())
        rest, back = mlp(128, 128, d, activation=nn.Tanh), self._generator()

        def reconstruction_error():
            items = batch(x)
            return (back(rest(self.first(items))) - items).square().sum(1).mean()

        learn([self.first, rest, back], reconstruction_error, steps)
        codes = rest(self.first(x))
        whiten = torch.linalg.inv(torch.linalg.cholesky(codes.T.cov())).T
        self.encode = lambda x: (rest(self.first(x)) - codes.mean(0)) @ whiten  # (n, D) -> (n, d)
        self.codes = self.encode(x)
        self.plain, self.noisy = self._invert(steps, 0, 0), self._invert(steps, s, s_x)
        self.of_codes, self.of_items = (mlp(n, 256, 256, n, activation=nn.Tanh)
                                        for n in (d, x.shape[1]))
        fit_denoiser(self.of_codes, lambda: batch(self.codes), s, 2 * steps)
        fit_denoiser(self.of_items, lambda: batch(x), s, 2 * steps)

    def _generator(self):
        return mlp(self.d, 128, 128, self.x.shape[1], activation=nn.Tanh)

    def _invert(self, steps, s, s_x):
        generator = self._generator()

        def loss():
            items = batch(self.x)
            h = self.encode(items + s_x * torch.randn_like(items))
            made = generator(h + s * torch.randn_like(h))
            return sum((see(made) - see(items)).square().sum(1).mean()
                       for see in (nn.Identity(), self.first, self.encode))

        learn([generator], loss, steps)
        return generator
