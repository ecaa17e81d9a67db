"""The descriptor (DesNet): an energy-based model, learned with Langevin dynamics.

    p(Y; theta) = exp(f(Y; theta)) N(Y; 0, sigma^2 I_D) / Z(theta)
    U(Y) = |Y|^2 / (2 sigma^2) - f(Y; theta) = -log p(Y; theta) + const

    (1) synthesise:  Y~ <- T times:  Y <- Y - d^2/2 (Y / sigma^2 - df/dY) + d e,   e ~ N(0, I)
    (2) learn:       theta <- theta - Adam(d/dtheta  (mean f(Y~) - mean f(Y))),    Y~ held fixed

Xie, Lu, Zhu and Wu, A Theory of Generative ConvNet, ICML 2016. Step (1) is
inference.samplers.langevin, as in ABP. Step (2) has the gradient of -log p, but its loss is not a
likelihood: its scale depends on d and T. The normalised loss

    n = (mean f(Y~) - mean f(Y)) d^2 / (2 D)

is comparable between runs: about the squared distance from chain to data per pixel, divided by T.
It changes sign when the chains reach the data. `history` holds it.

With few steps from a fixed start, and d so small that drift outweighs noise, learning yields a
sampler: T steps make images like the data, and more steps leave them (Nijkamp et al., On the
Anatomy of MCMC-based Maximum Likelihood Learning of Energy-Based Models, AAAI 2020: non-convergent
learning).
"""
import torch
from torch import nn

from inference.samplers import langevin
from zoo.networks import n_parameters
from zoo.train import descend, linear

LONG = 100                       # a persistent model is sampled by LONG * T steps from the Gaussian


class DesNet:
    """The network f, the Gaussian that it tilts, and its chains.

    net      items (n, ...) -> f (n,), each item by itself
    sigma    std of the Gaussian
    step     d, std of the noise of a step; stable on the Gaussian below 2 sigma
    n_steps  T of step (1)
    start    real items (n, ...) -> initial states of step (1); None: persistent chains, which
             continue from the last step (1), and from the Gaussian at first
    noise    std of noise on the real items of step (2), since chains end noisy
    lr       learning rate of Adam, falling linearly to 0; beta1: its decay of the mean gradient
    batch    items of step (2), and number of chains
    Raises ValueError if d is not below 2 sigma.
    """

    def __init__(self, net, sigma, step, n_steps, *, start=None, noise=0.0, lr=1e-3, beta1=0.9,
                 batch=256):
        if not 0 < step < 2 * sigma:
            raise ValueError(f"step = {step} diverges; choose one below 2 sigma = {2 * sigma}")
        self.net, self.sigma, self.step, self.n_steps = net, sigma, step, n_steps
        self.start, self.noise, self.lr, self.beta1, self.batch = start, noise, lr, beta1, batch
        self.n_parameters = n_parameters(net)
        self.history = []                        # n of each step (2)

    def energy(self, y):
        """U(Y) = |Y|^2 / (2 sigma^2) - f(Y): (n, ...) -> (n,)."""
        return y.flatten(1).square().sum(1) / (2 * self.sigma**2) - self.net(y)

    def synthesise(self, y, n_steps=None):
        """Step (1) from y (n, ...) -> the last states, detached; n_steps defaults to T."""
        n_steps = self.n_steps if n_steps is None else n_steps
        return langevin(self.energy, y, n_steps, self.step).z

    def loss(self, real, fake):
        """mean f(Y~) - mean f(Y) of items (n, ...) and (m, ...) -> ()."""
        return self.net(fake).mean() - self.net(real).mean()

    def fit(self, data, steps):
        """Steps (1) and (2), `steps` times, on data (n, ...) -> self."""
        chains = self.sigma * torch.randn(self.batch, *data.shape[1:])
        self.data = data

        def loss():
            nonlocal chains
            real = data
            if self.batch < len(data):
                real = data[torch.randint(len(data), (self.batch,))]
            start = chains if self.start is None else self.start(real)
            chains = self.synthesise(start)                                          # step (1)
            return self.loss(real + self.noise * torch.randn_like(real), chains)     # step (2)

        losses = descend(self.net.parameters(), loss, steps, self.lr, schedule=linear,
                         betas=(self.beta1, 0.999))
        self.history += [value * self.step**2 / (2 * data[0].numel()) for value in losses]
        return self

    def sample(self, n):
        """n items (n, ...): T steps from the starts of random training items.

        With persistent chains: LONG * T steps from the Gaussian.
        """
        if self.start is None:
            start = self.sigma * torch.randn(n, *self.data.shape[1:])
            return self.synthesise(start, LONG * self.n_steps)
        return self.synthesise(self.start(self.data[torch.randint(len(self.data), (n,))]))


def mean_colour(images):
    """A flat image of each image's mean colour: (n, 3, S, S) -> the same."""
    return images.mean((2, 3), keepdim=True).expand_as(images).clone()


class ImageNet(nn.Module):
    """f of images (n, 3, size, size) -> (n,): 64 filters 4 x 4, 128 filters 2 x 2, one unit.

    Without batch normalisation, which would make f(Y_i) depend on the other images of the batch.
    f is the network's value times 10 / sigma^2: modes have Y = sigma^2 df/dY, so f is large, and
    Adam grows weights slowly. The last unit starts at 0, so that p starts as the Gaussian; the
    filters start smooth and tapered, which avoids a lattice of stride 2.
    """

    def __init__(self, size, sigma):
        super().__init__()
        self.scale = 10 / sigma**2
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2),         # (n, 64, size/2, size/2)
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(64, 128, 2), nn.LeakyReLU(0.2),             # (n, 128, size/2, size/2)
            nn.Flatten(), nn.Linear(128 * (size // 2) ** 2, 1), nn.Flatten(0))   # (n,)
        taper = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        with torch.no_grad():
            filters, last = self.layers[0].weight, self.layers[-2].weight
            filters.add_(0.08 * torch.randn(64, 3, 1, 1)).mul_(taper[:, None] * taper)
            last.zero_()

    def forward(self, y):
        return self.scale * self.layers(y)


def animals(data, steps=150, lr=3e-4):
    """The descriptor of images (n, 3, S, S) in [-1, 1]: T = 10 steps from each mean colour."""
    sigma = 0.03
    model = DesNet(ImageNet(data.shape[-1], sigma), sigma, sigma, 10, start=mean_colour,
                   noise=0.035, lr=lr, beta1=0.5, batch=9)
    return model.fit(data, steps)
