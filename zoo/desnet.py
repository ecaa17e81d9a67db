"""The descriptor (DesNet): an energy-based model, learned by maximum likelihood with Langevin dynamics.

    p(Y; theta) = exp(f(Y; theta)) N(Y; 0, sigma^2 I_D) / Z(theta)
    U(Y) = |Y|^2 / (2 sigma^2) - f(Y; theta) = -log p(Y; theta) + const

    (1) synthesise:  Y~ <- T times:  Y <- Y - d^2/2 (Y / sigma^2 - df/dY) + d e,   e ~ N(0, I)
    (2) learn:       theta <- theta - Adam(d/dtheta  (mean f(Y~) - mean f(Y))),    Y~ held fixed

Xie, Lu, Zhu and Wu, A Theory of Generative ConvNet, ICML 2016. Step (1) is samplers.langevin, the same that
infers the latents of ABP. The gradient of step (2) is that of -log p, but its value is no likelihood: it
grows with the slope of f that T short steps need. What can be compared between runs is the loss per pixel in
units of 2 / d^2,

    n = (mean f(Y~) - mean f(Y)) d^2 / (2 D),

about the squared distance that a pixel still has to go, over T; `history` holds it. It passes through 0, once
and again, when the chains arrive where the data are.

With few steps from a fixed start and d so small that drift beats noise, what is learned is a sampler: T steps
make images like the data, and more steps leave them (Nijkamp et al., On the Anatomy of MCMC-based Maximum
Likelihood Learning of Energy-Based Models, AAAI 2020: non-convergent learning). `bench` measures by how much.
"""
import torch
from torch import nn

from inference.samplers import langevin
from runs.files import set_seed
from zoo import networks

LONG = 100                       # runs of T steps from the Gaussian that make a sample of a persistent model


class DesNet:
    """A network f, the Gaussian it tilts, and the chains that sample what comes out.

    net      items (n, ...) -> f (n,), without anything that lets items of a batch see each other
    sigma    std of the Gaussian
    step     d, std of each step's noise; stable on the Gaussian below 2 sigma
    n_steps  T of step (1)
    start    real items (n, ...) -> where chains of step (1) begin; None: they go on from where those of the
             step before ended (persistent), at first from the Gaussian
    sampler  one of samplers.py
    noise    std of noise on the real items of step (2): chains end noisy, and where items are few f would go
             on forever to tell them from the clean ones
    lr       learning rate of Adam, which falls along a line to 0; beta1 its decay of the mean gradient
    batch    items of step (2), and chains of step (1)

    Raises ValueError if d is not below 2 sigma.
    """

    def __init__(self, net, sigma, step, n_steps, *, start=None, sampler=langevin, noise=0.0, lr=1e-3,
                 beta1=0.9, batch=256):
        if not 0 < step < 2 * sigma:
            raise ValueError(f"step must be below 2 sigma = {2 * sigma}, where the Gaussian alone makes the "
                             f"chains diverge, not {step}")
        self.net, self.sigma, self.step, self.n_steps = net, sigma, step, n_steps
        self.start, self.sampler, self.noise = start, sampler, noise
        self.lr, self.beta1, self.batch = lr, beta1, batch
        self.history = []                        # n after each step (2)

    @property
    def n_parameters(self):
        """How many numbers are learned."""
        return networks.n_parameters(self.net)

    def energy(self, y):
        """U(Y) = |Y|^2 / (2 sigma^2) - f(Y): (n, ...) -> (n,)."""
        return y.flatten(1).square().sum(1) / (2 * self.sigma**2) - self.net(y)

    def synthesise(self, y, n_steps=None):
        """Step (1) from y (n, ...) -> the last states, detached; n_steps defaults to T."""
        return self.sampler(self.energy, y, self.n_steps if n_steps is None else n_steps, self.step).z

    def loss(self, real, fake):
        """mean f(Y~) - mean f(Y) of items (n, ...) and (m, ...) -> ()."""
        return self.net(fake).mean() - self.net(real).mean()

    def fit(self, data, *, steps, seed=0):
        """Steps (1) and (2), `steps` times, on data (n, ...) -> self."""
        set_seed(seed)
        optimizer = torch.optim.Adam(self.net.parameters(), self.lr, (self.beta1, 0.999))
        chains = self.sigma * torch.randn(self.batch, *data.shape[1:])
        self.data = data
        for step in range(steps):
            real = data[torch.randint(len(data), (self.batch,))] if self.batch < len(data) else data
            chains = self.synthesise(chains if self.start is None else self.start(real))          # step (1)
            loss = self.loss(real + self.noise * torch.randn_like(real), chains)                  # step (2)
            optimizer.param_groups[0]["lr"] = self.lr * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            self.history.append(loss.item() * self.step**2 / (2 * data[0].numel()))
        return self

    def sample(self, n):
        """n items (n, ...): T steps from starts of training items drawn at random.

        Where chains are persistent: LONG runs of T steps from the Gaussian.
        """
        if self.start is None:
            return self.synthesise(self.sigma * torch.randn(n, *self.data.shape[1:]), LONG * self.n_steps)
        return self.synthesise(self.start(self.data[torch.randint(len(self.data), (n,))]))


def mean_colour(images):
    """Each image's own mean colour, all over it: (n, 3, S, S) -> the same shape."""
    return images.mean((2, 3), keepdim=True).expand_as(images).clone()


class Linear(nn.Module):
    """f(Y) = w . Y: tilts N(0, sigma^2 I) to N(sigma^2 w, sigma^2 I)."""

    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n))

    def forward(self, y):
        return y @ self.w


def point_net(width=64):
    """f of points: (n, 2) -> (n,)."""
    return nn.Sequential(networks.mlp(2, width, width, width, 1, activation=nn.SiLU), nn.Flatten(0))


class ImageNet(nn.Module):
    """f of images (n, 3, size, size) -> (n,): 64 filters 4 x 4, stride 2; 128 filters 2 x 2; one unit.

    No batch normalisation: in training mode f(Y_i) would depend on the other images, and exp(f) would be no
    density of one. f is the network's value times 10 / sigma^2: a mode of p is where Y = sigma^2 df/dY, and
    Adam, blind to the scale of f, need not carry weights that small up to it. The last unit starts at 0, so
    that p starts as the Gaussian; the filters start smooth, as pictures are, tapered so that neighbours that
    overlap leave no lattice of stride 2.
    """

    def __init__(self, size, sigma=1.0):
        super().__init__()
        self.scale = 10 / sigma**2
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2),                          # (n, 64, size/2, size/2)
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(64, 128, 2), nn.LeakyReLU(0.2),  # (n, 128, size/2, size/2)
            nn.Flatten(), nn.Linear(128 * (size // 2) ** 2, 1), nn.Flatten(0))     # (n,)
        taper = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        with torch.no_grad():
            filters, last = self.layers[0].weight, self.layers[-2].weight
            filters.add_(0.08 * torch.randn(64, 3, 1, 1)).mul_(taper[:, None] * taper)
            last.zero_()

    def forward(self, y):
        return self.scale * self.layers(y)


def ring_model(seed=0, n_steps=20):
    """The descriptor of points, with persistent chains."""
    set_seed(seed)
    return DesNet(point_net(), 1.0, 0.1, n_steps, lr=2e-3)


# ---------------------------------------------------------------------------------------------------- animals

def image_model(size, sigma=0.03, lr=3e-4):
    """The descriptor of images (n, 3, size, size): T = 10 steps from each image's own mean colour."""
    return DesNet(ImageNet(size, sigma), sigma, sigma, 10, start=mean_colour, noise=0.035, lr=lr, beta1=0.5,
                  batch=9)


def animals(data, seed=0, steps=150):
    """The descriptor of images (n, 3, S, S) in [-1, 1]."""
    set_seed(seed)
    return image_model(data.shape[-1]).fit(data, steps=steps, seed=seed)
