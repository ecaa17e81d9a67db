"""Boundary equilibrium GAN (BEGAN): the discriminator is an autoencoder, balanced by a controller.

    L(v)  = mean over pixels of |v - D(v)|,     D an autoencoder,   z ~ U(-1, 1)^nz
    L_D   = L(x) - k L(G(z)),                   L_G = L(G(z))
    k    <- clip(k + lambda (gamma L(x) - L(G(z))), 0, 1)                       after the steps of
                                                                                D and G
    M     = L(x) + |gamma L(x) - L(G(z))|

Berthelot, Schumm and Metz, BEGAN: Boundary Equilibrium Generative Adversarial Networks,
arXiv:1703.10717, 2017. At the equilibrium E L(G(z)) = gamma E L(x): a small gamma asks for images
that D codes well, a large one for variety. The learning rate is halved where M stops falling. M is
no measure of quality: it falls during a collapse, too.
"""
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from inference.measures import to_side
from models import GenNet
from zoo import gan
from zoo.networks import n_parameters
from zoo.train import alternate


class BEGAN:
    """A generator and its autoencoder.

    generator    z (n, nz) in [-1, 1] -> items (n, ...)
    autoencoder  items (n, ...) -> the same shape, not bounded at the end
    nz           dimension of z
    gamma        L(G(z)) / L(x) at the equilibrium, in (0, 1]
    rate         lambda of the controller; with 0, k stays 0
    lr, floor    initial and least learning rate of Adam (beta1 = .5), for both networks
    patience     steps over which M is averaged; lr is halved if the mean reaches no new minimum
    batch        real items, and fakes, of a step
    """

    def __init__(self, generator, autoencoder, nz, *, gamma=0.5, rate=1e-3, lr=1e-4, floor=2e-5,
                 patience=2000, batch=64):
        self.generator, self.autoencoder, self.nz = generator, autoencoder, nz
        self.gamma, self.rate = gamma, rate
        self.n_parameters = n_parameters(generator, autoencoder)
        self.floor, self.patience, self.batch = floor, patience, batch
        self.opt_g, self.opt_d = (torch.optim.Adam(net.parameters(), lr, (0.5, 0.999), fused=True)
                                  for net in (generator, autoencoder))
        self.k, self.real = 0.0, 0.0                 # k of the next step, L(x) of the last one
        self.history = []                # (L(x), L(G(z)), k of the next step, M, lr) of each step

    def losses(self, x):
        """L of each item (n, ...) -> (n,)."""
        return (x - self.autoencoder(x)).abs().flatten(1).mean(1)

    def made(self, n):
        """G(z) of n fresh z (n, ...), with a gradient to G."""
        return self.generator(2 * torch.rand(n, self.nz) - 1)

    def discriminator_loss(self, real):
        """L_D on items (n, ...) and as many fresh fakes; no gradient to G -> ()."""
        with torch.no_grad():
            fake = self.made(len(real))
        of_real = self.losses(real).mean()
        self.real = of_real.item()
        return of_real - self.k * self.losses(fake).mean()

    def generator_loss(self):
        """L_G on fresh fakes -> ()."""
        return self.losses(self.made(self.batch)).mean()

    def fit(self, data, steps):
        """`steps` steps of D, of G and of the controller on data (n, ...) -> self."""
        def discriminate():
            return self.discriminator_loss(data[torch.randint(len(data), (self.batch,))])

        schedulers = [ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.0,
                                        min_lr=self.floor)
                      for optimizer in (self.opt_d, self.opt_g)]
        for step in range(1, steps + 1):
            _, fake = alternate((self.opt_d, discriminate, 1), (self.opt_g, self.generator_loss, 1))
            balance = self.gamma * self.real - fake
            self.k, m = min(1.0, max(0.0, self.k + self.rate * balance)), self.real + abs(balance)
            self.history.append((self.real, fake, self.k, m, self.opt_g.param_groups[0]["lr"]))
            if step % self.patience == 0:
                mean = sum(row[3] for row in self.history[-self.patience:]) / self.patience
                for scheduler in schedulers:
                    scheduler.step(mean)
        return self

    @torch.no_grad()
    def sample(self, n):
        """n items (n, ...)."""
        return self.made(n)


def animals(data, steps=2000):
    """The BEGAN of images (n, 3, S, S) in [-1, 1] and their mirror images, at 32 x 32.

    G is ABP's generator, and so is D's decoder, without its tanh; z and codes have h numbers. It
    collapses on the 18 training images of the sheet: samples are nearly equal (zoo/README.md).
    """
    data, h, width = to_side(data, 32), 32, 16
    decoder = GenNet(h, 32, 128, 12)
    decoder.deconv = decoder.deconv[:-1]
    layers = gan.image_layers(width, nn.ELU())
    autoencoder = nn.Sequential(*layers, nn.Linear(64 * width, h), decoder)
    model = BEGAN(GenNet(h, 32, 128, 12), autoencoder, h, gamma=0.7, rate=0.05, lr=1e-3, batch=8)
    return model.fit(torch.cat([data, data.flip(3)]), steps)
