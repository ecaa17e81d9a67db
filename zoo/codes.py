"""What a PPGN is given: classifiers, denoisers, and codes with generators that turn them into items.

Every net here is taught first and fixed afterwards.
"""
import torch
from torch import nn
from torch.nn import functional as F

from zoo.networks import mlp


def learn(modules, loss, steps, lr=2e-3):
    """Adam on loss() -> (), its rate from lr along a cosine to 0; then the modules' weights are fixed."""
    optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr, fused=True)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        fall.step()
    for module in modules:
        module.requires_grad_(False)


def fit_denoiser(denoiser, draw, s, steps, lr=2e-3):
    """Teach E |R(h + s n) - h|^2, n ~ N(0, I), on codes draw() (n, d) -> denoiser."""
    def loss():
        h = draw()
        return (denoiser(h + s * torch.randn_like(h)) - h).square().sum(1).mean()

    learn([denoiser], loss, steps, lr)
    return denoiser


def fit_classifier(net, x, labels, steps=1000, noise=0.1):
    """Teach the logits of items x (n, ...), with noise of this std on them, their labels (n,) -> net."""
    def loss():
        rows = torch.randint(len(x), (128,))
        return F.cross_entropy(net(x[rows] + noise * torch.randn_like(x[rows])), labels[rows])

    learn([net], loss, steps)
    return net


class Codes:
    """An encoder E of items x (n, D), two generators that invert it, and denoisers: what variants share.

    E is one half of an autoencoder, its codes (n, d) of mean 0 and covariance I over x, and fixed from then
    on, as in the paper. G learns that G(h) is x, and E's first layer and code at G(h) those at x, from
    h = E(x) (`plain`) or from E(x + s_x n) + s n (`noisy`), whose R(h) = E(G(h)) takes noise away. `of_codes`
    and `of_items` take noise of std s from codes and from items. All are bounded, by tanh, so that no chain
    runs off to where nothing was taught.
    """

    def __init__(self, x, d=16, s=0.5, s_x=0.1, steps=2000):
        self.x, self.d, self.s = x, d, s
        self.first = nn.Sequential(nn.Linear(x.shape[1], 128), nn.Tanh())
        rest, back = mlp(128, 128, d, activation=nn.Tanh), self._generator()

        def inverse():
            items = self._batch()
            return (back(rest(self.first(items))) - items).square().sum(1).mean()

        learn([self.first, rest, back], inverse, steps)
        codes = rest(self.first(x))
        whiten = torch.linalg.inv(torch.linalg.cholesky(codes.T.cov())).T
        self.encode = lambda x: (rest(self.first(x)) - codes.mean(0)) @ whiten          # (n, D) -> (n, d)
        self.codes = self.encode(x)
        self.plain, self.noisy = self._invert(steps, 0, 0), self._invert(steps, s, s_x)
        self.of_codes, self.of_items = (mlp(n, 256, 256, n, activation=nn.Tanh) for n in (d, x.shape[1]))
        fit_denoiser(self.of_codes, lambda: self._batch(self.codes), s, 2 * steps)
        fit_denoiser(self.of_items, self._batch, s, 2 * steps)

    def _generator(self):
        return mlp(self.d, 128, 128, self.x.shape[1], activation=nn.Tanh)

    def _batch(self, items=None):
        items = self.x if items is None else items
        return items[torch.randint(len(items), (128,))]

    def _invert(self, steps, s, s_x):
        generator = self._generator()

        def loss():
            items = self._batch()
            h = self.encode(items + s_x * torch.randn_like(items))
            made = generator(h + s * torch.randn_like(h))
            return sum((see(made) - see(items)).square().sum(1).mean()
                       for see in (nn.Identity(), self.first, self.encode))

        learn([generator], loss, steps)
        return generator
