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

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from inference.measures import to_side
from models import GenNet
from runs.files import set_seed
from zoo import core


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


def points_gan(pack=1, nz=8, **options):
    """A GAN of points in the plane, 128 units a layer."""
    generator, discriminator = core.mlp(nz, 128, 128, 2), core.mlp(2 * pack, 128, 128, 1)
    return GAN(generator, discriminator, nz, pack=pack, lr=1e-3, **options)


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
