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
from pathlib import Path

import torch
from torch import nn

from samplers import langevin, mala
from utils import load_img_tensors, set_seed
from zoo import core, measure, worlds
from zoo.core import Check

FACES, STEPS = Path(__file__).parent.parent / "data/drawn", 150
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
        return core.n_parameters(self.net)

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
    return nn.Sequential(core.mlp(2, width, width, width, 1, activation=nn.SiLU), nn.Flatten(0))


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


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """Where p is a Gaussian: what is learned and how ULA is biased; the gradient of step (2) anywhere."""
    return [*_gaussian(), _gradient(), _alone()]


def _gaussian():
    """f = w . Y learns w = mean(Y) / sigma^2, and chains have variance sigma^2 / (1 - d^2 / 4 sigma^2)."""
    sigma, d = 2.0, 1.0
    set_seed(0)
    data = torch.tensor([3.0, -2.0, 1.0]) + torch.randn(2000, 3)
    target = data.mean(0) / sigma**2

    def learn(**options):
        model = DesNet(Linear(3), sigma, d, 10, lr=0.05, batch=2000, **options)
        return model.fit(data, steps=150)

    def off(model):
        return ((model.net.w.detach() - target).norm() / target.norm()).item()

    model = learn()
    checks = [Check("f = w . Y: learned w off mean(Y) / sigma^2 [share]", off(model), hi=0.02,
                    source="p = N(sigma^2 w, sigma^2 I), maximum likelihood",
                    controls={"chains begun anew, T = 10 too few":
                              off(learn(start=lambda y: sigma * torch.randn_like(y)))})]
    for ratio in (0.5, 1.0, 1.5):
        model.step = ratio * sigma
        begin = sigma**2 * model.net.w.detach() + sigma * torch.randn(40_000, 3)
        variance, exact = ((sampler(model.energy, begin, 30, model.step).z.var(0).mean() / sigma**2).item()
                           for sampler in (langevin, mala))
        theory = 1 / (1 - ratio**2 / 4)
        checks.append(Check(f"variance of chains, d = {ratio} sigma [sigma^2]", variance, 0.98 * theory,
                            1.02 * theory, "stationary variance of an autoregression",
                            {"with a Metropolis test": exact}))
    return checks


def _gradient():
    """The gradient of step (2), its chains replaced by exact draws, against that of -log p by a grid."""
    set_seed(1)
    world, grid = worlds.ring(radius=1.0, sd=0.15), measure.square(4.0, 201)
    model, real = DesNet(point_net(16).double(), 1.0, 0.1, 20), world.sample(2000).double()
    weights = list(model.net.parameters())
    with torch.no_grad():
        model.net[0][-1].weight.mul_(20)            # an f that bends

    def gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])

    log_p = -model.energy(grid.z)
    exact = gradient(model.energy(real).mean() + grid.log_integral(log_p))
    fake, plain = (grid.z[torch.multinomial(p, 100_000, replacement=True)]
                   for p in (log_p.detach().softmax(0), (-grid.z.square().sum(1) / 2).softmax(0)))

    def off(value):
        return ((gradient(value) - exact).norm() / exact.norm()).item()

    return Check("gradient of step (2) off that of -log p [share]", off(model.loss(real, fake)), hi=0.05,
                 source="Xie et al. 2016, gradient of the log-likelihood",
                 controls={"sign turned": off(model.loss(fake, real)),
                           "draws of the Gaussian for those of p": off(model.loss(real, plain))})


def _alone():
    """f of an image does not depend on the images beside it."""
    set_seed(2)
    net, y = ImageNet(16).layers, torch.randn(4, 3, 16, 16)
    nn.init.normal_(net[-2].weight)
    batch = nn.Sequential(*net[:1], nn.BatchNorm2d(64), *net[1:])

    def off(net):
        with torch.no_grad():
            return (net(y)[0] - net(y[:1])[0]).abs().item()

    return Check("f of an image beside three others less f of it alone", off(net), hi=1e-5,
                 source="p is a density of one image", controls={"batch normalisation, training": off(batch)})


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0):
    """A ring of 8, where log Z is known from a grid; and drawn faces, where only chains can be judged."""
    return [*_ring(seed), *_faces(seed)]


def nll(model, x, half=3.0, cells=301):
    """-log p of points x (n, 2) in nats, on average, with log Z by the midpoint rule over a square."""
    grid = measure.square(half, cells)
    with torch.no_grad():
        log_z = grid.log_integral(-model.energy(grid.z.float()).double())
        return (model.energy(x).double().mean() + log_z).item()


def ring_model(seed=0, n_steps=20):
    """The descriptor of points, with persistent chains."""
    set_seed(seed)
    return DesNet(point_net(), 1.0, 0.1, n_steps, lr=2e-3)


def _ring(seed):
    world = worlds.ring(radius=1.0, sd=0.15)
    set_seed(seed)
    train, test = world.sample(10_000), world.sample(20_000)
    model = ring_model(seed).fit(train, steps=1500, seed=seed)
    gauss = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    still = ring_model(seed, n_steps=0).fit(train, steps=1500, seed=seed)
    turned = ring_model(seed)
    turned.net = lambda y: -model.net(y)
    got, unmoved = (measure.coverage(each.sample(2500), world) for each in (model, still))
    elsewhere = measure.coverage(turned.synthesise(torch.randn(2500, 2), 200), world)
    return [
        Check("ring: -log p on held-out points [nats]", nll(model, test), -world.log_prob(test).mean().item(),
              1.45, "from the truth's; the best Gaussian has 2.19",
              {"one Gaussian": -gauss.log_prob(test).mean().item(), "f turned over": nll(turned, test),
               "chains that never move": nll(still, test)}),
        Check("ring: log Z over [-3, 3]^2, 301^2 cells, off [-6, 6]^2, 1201^2 cells [nats]",
              abs(nll(model, test[:1]) - nll(model, test[:1], 6.0, 1201)), hi=1e-3, source="numerical error",
              controls={"over [-1, 1]^2": abs(nll(model, test[:1], 1.0) - nll(model, test[:1]))}),
        Check("ring: modes of 8", got.modes, 8, 8, "the world", {"f turned over": elsewhere.modes}),
        Check("ring: points within 3 sd", got.quality, 0.93, 1.0, "the truth has .989",
              {"chains that never move": unmoved.quality, "f turned over": elsewhere.quality}),
    ]


def _faces(seed):
    """The drawn faces at 64 x 64: what chains must match, and what ten times as many steps make of it."""
    data, _ = load_img_tensors(FACES, 64)
    model = animals(data, seed)
    begin = mean_colour(data)
    fake = model.synthesise(begin)
    far = model.synthesise(fake, 9 * model.n_steps)
    turned, idle = image_model(64), image_model(64, lr=1e-9)
    turned.net = lambda y: -model.net(y)
    idle.fit(data, steps=40, seed=seed)
    crossings, offset = zip(*map(_balance, (model, idle)), strict=True)
    source = "chosen beforehand"

    def features(y):
        """Mean of each of the 64 first filters, rectified: (n, 3, 64, 64) -> (64,)."""
        with torch.no_grad():
            return model.net.layers[0](y).relu().mean((0, 2, 3))

    def off(y):
        return ((features(y) - features(data)).norm() / features(data).norm()).item()

    def size(y):
        return y.square().mean().sqrt().item()

    return [
        Check("faces: n crosses 0, last third [share of steps]", crossings[0], 0.1, 1.0, source,
              {"f that hardly learns": crossings[1]}),
        Check("faces: |mean of n| over its std, last third", offset[0], hi=1.0, source=source,
              controls={"f that hardly learns": offset[1]}),
        Check("faces: mean of the first filters, chains off data [share]", off(fake), hi=0.15, source=source,
              controls={"where chains start": off(begin)}),
        Check("faces: pixels after 10 T steps, root mean square", size(far), 0.2, 1.0,
              "a picture's pixels are in [-1, 1]",
              {"f turned over": size(turned.synthesise(fake, 9 * model.n_steps))}),
        Check("faces: drift in 9 T more steps, over what T steps move", size(far - fake) / size(fake - begin),
              hi=3.0, source="finite, but no 0: learning is non-convergent"),
    ]


def _balance(model):
    """How often n crosses 0 and |mean| / std of n, both over the last third of the steps."""
    n = torch.tensor(model.history[-len(model.history) // 3:])
    return (n.sign().diff() != 0).float().mean().item(), abs(n.mean() / n.std()).item()


# ---------------------------------------------------------------------------------------------------- animals

def image_model(size, sigma=0.03, lr=3e-4):
    """The descriptor of images (n, 3, size, size): T = 10 steps from each image's own mean colour."""
    return DesNet(ImageNet(size, sigma), sigma, sigma, 10, start=mean_colour, noise=0.035, lr=lr, beta1=0.5,
                  batch=9)


def animals(data, seed=0, steps=STEPS):
    """The descriptor of images (n, 3, S, S) in [-1, 1]."""
    set_seed(seed)
    return image_model(data.shape[-1]).fit(data, steps=steps, seed=seed)
