"""Generative adversarial network (GAN): a generator against a discriminator.

    V(D, G) = E log D(x) + E log(1 - D(G(z))),    D = sigmoid(a),  z ~ N(0, I)

    (1) discriminate, k times:  ascend V in the weights of D, on fresh fakes G(z) held fixed
    (2) generate:               descend E log(1 - D(G(z))) (minimax) or -E log D(G(z)) (non-
                                saturating) in the weights of G

Goodfellow et al., Generative Adversarial Nets, NIPS 2014: V is Eq. 1, the steps are Algorithm 1,
and the non-saturating loss is at the end of Section 3. All losses are softplus of the logit a,
since log D = -softplus(-a) and log(1 - D) = -softplus(a): no logarithm of a rounded 0 or 1.

Packing (Lin, Khetan, Fanti and Oh, PacGAN, NeurIPS 2018) shows D `pack` items at once, all real or
all fake, so that D sees a lack of variety.
"""
import itertools

import torch
from torch import nn
from torch.nn import functional as F

from inference.measures import to_side
from models import GenNet
from zoo.networks import n_parameters
from zoo.train import alternate, linear, running_mean, scheduled


def value(real, fake):
    """V(D, G) of the logits of real (n,) and of fake (m,) items, in nats -> ()."""
    return -F.softplus(-real).mean() - F.softplus(fake).mean()


def generator_loss(fake, saturating):
    """The loss of G from the logits of fake items (m,): E log(1 - D) if saturating, or -E log D."""
    return -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()


class GAN:
    """A generator and its discriminator.

    generator      z (n, nz) -> items (n, c, ...)
    discriminator  (n, pack * c, ...) -> logits (n, 1)
    nz             dimension of z
    saturating     True: G has the minimax loss; False: the non-saturating one
    k              steps of D for each step of G
    pack           items that D sees at once, joined along their first dimension c; divides batch
    augment        differentiable random change of D's inputs (n, c, ...), real and fake; or None
    lr, beta1      of Adam, for both networks; lr falls linearly to 0
    batch          real items, and fakes, of a step
    r1             weight of the gradient penalty r1/2 E |da/dx|^2 on real items (Mescheder, Geiger
                   and Nowozin, ICML 2018, Eq. 9)
    average        decay of the running mean of G's weights, used in sample; 0: no mean
    """

    def __init__(self, generator, discriminator, nz, *, saturating=False, k=1, pack=1, augment=None,
                 r1=0.0, lr=2e-4, beta1=0.5, batch=128, average=0.0):
        self.generator, self.discriminator, self.nz = generator, discriminator, nz
        self.saturating, self.k, self.pack, self.augment = saturating, k, pack, augment
        self.r1, self.batch = r1, batch
        self.n_parameters = n_parameters(generator, discriminator)
        self.opt_g, self.opt_d = (torch.optim.Adam(net.parameters(), lr, (beta1, 0.999), fused=True)
                                  for net in (generator, discriminator))
        self.mean = running_mean(generator, average) if average else None
        self.history = []                # V minus the penalty, and the loss of G, of each round

    def logits(self, x):
        """a of items (n, c, ...), packed and augmented as in training -> (n / pack,)."""
        return self.discriminator(self._shown(x)).squeeze(1)

    def _shown(self, x):
        x = x if self.augment is None else self.augment(x)
        return x.unflatten(0, (-1, self.pack)).flatten(1, 2)

    def made(self, z, generator=None):
        """Items (n, c, ...) at z (n, nz), by the trained generator or another one."""
        return (generator or self.generator)(z)

    def generator_loss(self):
        """The loss of G on fresh fakes -> ()."""
        fake = self.made(torch.randn(self.batch, self.nz))
        return generator_loss(self.logits(fake), self.saturating)

    def discriminator_loss(self, real):
        """-V on real items (n, c, ...) and as many fakes, plus penalty; no gradient to G -> ()."""
        with torch.no_grad():
            fake = self.made(torch.randn(len(real), self.nz))
        shown = self._shown(real).requires_grad_(self.r1 > 0)
        logits = self.discriminator(shown).squeeze(1)
        loss = -value(logits, self.logits(fake))
        if self.r1:
            (slope,) = torch.autograd.grad(logits.sum(), shown, create_graph=True)
            loss = loss + self.r1 / 2 * slope.square().flatten(1).sum(1).mean()
        return loss

    def fit(self, data, steps):
        """Algorithm 1 on data (n, c, ...) for `steps` steps of G -> self."""
        def discriminate():
            return self.discriminator_loss(data[torch.randint(len(data), (self.batch,))])

        schedulers = [scheduled(optimizer, steps, linear) for optimizer in (self.opt_d, self.opt_g)]
        for _ in range(steps):
            minus_value, loss = alternate((self.opt_d, discriminate, self.k),
                                          (self.opt_g, self.generator_loss, 1))
            self.history.append((-minus_value, loss))
            for scheduler in schedulers:
                scheduler.step()
            if self.mean:
                self.mean.update_parameters(self.generator)
        return self

    @torch.no_grad()
    def sample(self, n):
        """n items (n, c, ...)."""
        return self.made(torch.randn(n, self.nz), self.mean and self.mean.module)


def augment(x):
    """Random mirror, shift, zoom and brightness: images (n, 3, S, S) in [-1, 1] -> the same shape.

    Differentiable (Zhao et al., DiffAugment, NeurIPS 2020); images are mirrored at the border.
    """
    n = len(x)
    mirror, zoom = torch.randint(2, (n,)) * 2 - 1, 1 + 0.1 * (torch.rand(n) - 0.5)
    frame = torch.zeros(n, 2, 3)
    frame[:, 0, 0], frame[:, 1, 1] = mirror * zoom, zoom
    frame[:, :, 2] = (torch.rand(n, 2) - 0.5) / 2        # up to 1/8 of the side in each direction
    x = F.grid_sample(x, F.affine_grid(frame, x.shape, align_corners=False),
                      padding_mode="reflection", align_corners=False)
    return x + 0.4 * (torch.rand(n, 1, 1, 1) - 0.5)


def image_layers(width, activation):
    """Layers (n, 3, 32, 32) -> (n, 64 width), a list: three convolutions, each to half the side.

    Without batch normalisation, with which D would tell batches apart.
    """
    layers = []
    for n_in, n_out in itertools.pairwise((3, width, 2 * width, 4 * width)):
        layers += [nn.Conv2d(n_in, n_out, 4, 2, 1), activation]
    return [*layers, nn.Flatten()]


def animals(data, steps=3000):
    """The GAN of images (n, 3, S, S) in [-1, 1] at 32 x 32, with ABP's generator.

    The discriminator is that of Radford, Metz and Chintala, DCGAN, ICLR 2016, but smaller and
    without batch normalisation.
    """
    discriminator = nn.Sequential(*image_layers(32, nn.LeakyReLU(0.2)), nn.Linear(64 * 32, 1))
    generator = GenNet(nz=16, img_size=32, hidden=128, width=12)
    model = GAN(generator, discriminator, 16, augment=augment, r1=0.1, lr=1e-3, beta1=0.0,
                batch=24, average=0.995)
    return model.fit(to_side(data, 32), steps)
