"""Boundary equilibrium GAN (BEGAN): the discriminator is an autoencoder, a controller keeps it in balance.

    L(v)  = mean over pixels of |v - D(v)|,     D an autoencoder,   z ~ U(-1, 1)^nz
    L_D   = L(x) - k L(G(z)),                   L_G = L(G(z))
    k    <- clip(k + lambda (gamma L(x) - L(G(z))), 0, 1)                       after the steps of D and G
    M     = L(x) + |gamma L(x) - L(G(z))|

Berthelot, Schumm and Metz, BEGAN: Boundary Equilibrium Generative Adversarial Networks, arXiv:1703.10717,
2017. At the equilibrium E L(G(z)) = gamma E L(x): a small gamma asks for pictures that D codes well, a large
one for variety. M was proposed as a measure of convergence. It falls during a collapse too, so that nothing
is judged by it here; but where it no longer falls the learning rate is halved, down to a floor.
"""
import torch
from torch import nn

from inference.measures import to_side
from models import GenNet
from runs.files import set_seed
from zoo import core, gan


def next_k(k, real, fake, gamma, rate):
    """k of the next step from the losses L(x) and L(G(z)) of this one, floats; rate is lambda."""
    return min(1.0, max(0.0, k + rate * (gamma * real - fake)))


def convergence(real, fake, gamma):
    """M of the losses L(x) and L(G(z)), floats."""
    return real + abs(gamma * real - fake)


class BEGAN:
    """A generator and the autoencoder that teaches it.

    generator    z (n, nz) in [-1, 1] -> items (n, ...)
    autoencoder  items (n, ...) -> the same shape, without a head that would bound them
    nz           dimension of z
    gamma        L(G(z)) / L(x) at the equilibrium, in (0, 1]
    rate         lambda, of the controller; 0: k stays at 0
    augment      random change of the items that D learns, (n, ...) -> the same; None: none
    lr, floor    of Adam (beta1 = .5) for both at first, and where it is halved no more
    patience     steps over which M is averaged; where that is no lower than ever before, lr is halved
    batch        items of each kind in a step
    """

    def __init__(self, generator, autoencoder, nz, *, gamma=0.5, rate=1e-3, augment=None, lr=1e-4,
                 floor=2e-5, patience=2000, batch=64):
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1; it is {gamma}")
        if rate < 0 or patience < 1:
            raise ValueError(f"rate must be at least 0 and patience at least 1; they are {rate}, {patience}")
        self.generator, self.autoencoder, self.nz = generator, autoencoder, nz
        self.gamma, self.rate, self.augment = gamma, rate, augment
        self.floor, self.patience, self.batch = floor, patience, batch
        self.opt_g, self.opt_d = (torch.optim.Adam(net.parameters(), lr, (0.5, 0.999), fused=True)
                                  for net in (generator, autoencoder))
        self.k, self.real = 0.0, 0.0                 # k of the next step, L(x) of the last one
        self.history = []                            # L(x), L(G(z)), k of the next step, M, lr, of each step

    @property
    def n_parameters(self):
        """How many numbers are learned, those of the autoencoder too."""
        return core.n_parameters(self.generator, self.autoencoder)

    def losses(self, x):
        """L of each item (n, ...) -> (n,)."""
        return (x - self.autoencoder(x)).abs().flatten(1).mean(1)

    def made(self, n):
        """G(z) of n fresh z (n, ...), with a gradient to G."""
        return self.generator(2 * torch.rand(n, self.nz) - 1)

    def discriminator_loss(self, real):
        """L_D on items (n, ...) and as many fresh fakes; no gradient goes to G -> ()."""
        with torch.no_grad():
            fake = self.made(len(real))
        of_real = self.losses(real if self.augment is None else self.augment(real)).mean()
        self.real = of_real.item()
        return of_real - self.k * self.losses(fake).mean()

    def generator_loss(self):
        """L_G on fresh fakes -> ()."""
        return self.losses(self.made(self.batch)).mean()

    def fit(self, data, *, steps, seed=0):
        """`steps` steps of D and of G on data (n, ...), with k after each and lr where M stalls -> self."""
        set_seed(seed)

        def judge():
            return self.discriminator_loss(data[torch.randint(len(data), (self.batch,))])

        best = float("inf")
        for step in range(1, steps + 1):
            _, fake = core.alternate((self.opt_d, judge, 1), (self.opt_g, self.generator_loss, 1))
            self.k = next_k(self.k, self.real, fake, self.gamma, self.rate)
            self.history.append((self.real, fake, self.k, convergence(self.real, fake, self.gamma),
                                 self.opt_g.param_groups[0]["lr"]))
            if step % self.patience == 0:
                mean = sum(row[3] for row in self.history[-self.patience:]) / self.patience
                if mean >= best:
                    self._halve()
                best = min(best, mean)
        return self

    def _halve(self):
        for optimizer in (self.opt_d, self.opt_g):
            for group in optimizer.param_groups:
                group["lr"] = max(min(self.floor, group["lr"]), group["lr"] / 2)

    @torch.no_grad()
    def sample(self, n):
        """n items (n, ...)."""
        return self.made(n)

    @torch.no_grad()
    def reconstruct(self, x):
        """D(x): items (n, ...) -> the same."""
        return self.autoencoder(x)


def digit_began(gamma, h=16, width=128, rate=0.05, lr=4e-4, batch=32, **options):
    """A BEGAN of digits (n, 64) in [-1, 1], whose autoencoder codes them with h numbers, as many as z has.

    The controller is fast: with lambda = .001, as in the paper, and lr = .0001, L(G(z)) / L(x) swung between
    .57 and .82 for gamma = .7, and samples were of one class of 10 (4000 steps).
    """
    generator = core.mlp(h, width, width, 64, activation=nn.ELU)
    autoencoder = core.mlp(64, width, width, h, width, width, 64, activation=nn.ELU)
    return BEGAN(generator, autoencoder, h, gamma=gamma, rate=rate, lr=lr, batch=batch, **options)


# ---------------------------------------------------------------------------------------------------- animals

def image_began(h=32, width=16, **options):
    """A BEGAN of images (n, 3, 32, 32): G is ABP's generator, and so is D's decoder, but for its tanh."""
    layers = gan.image_layers(width, nn.ELU())
    decoder = GenNet(h, 32, 128, 12)
    decoder.deconv = decoder.deconv[:-1]
    autoencoder = nn.Sequential(*layers, nn.Linear(64 * width, h), decoder)
    return BEGAN(GenNet(h, 32, 128, 12), autoencoder, h, **options)


def animals(data, seed=0, steps=2000):
    """The BEGAN of images (n, 3, S, S) in [-1, 1] and of their mirror images, at 32 x 32.

    On 18 photographs it collapses: every sample is the same animal, and k ends at 0. It does so, too, at
    a smaller learning rate and with the GAN's augmentation, and the animal is a blur then.
    """
    set_seed(seed)
    data = to_side(data, 32)
    model = image_began(gamma=0.7, rate=0.05, lr=1e-3, batch=8)
    return model.fit(torch.cat([data, data.flip(3)]), steps=steps, seed=seed)
