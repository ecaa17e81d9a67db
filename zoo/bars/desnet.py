"""What the descriptor is held to: a linear energy in closed form; a ring of 8 and faces."""
import torch
from torch import nn

from abp import ROOT
from inference.samplers import langevin, mala
from runs.files import set_seed
from utils import load_img_tensors
from zoo import datasets, metrics
from zoo.core import Check
from zoo.desnet import DesNet, ImageNet, Linear, animals, image_model, mean_colour, point_net, ring_model

FACES = ROOT / "data" / "drawn"


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
    world, grid = datasets.ring(radius=1.0, sd=0.15), metrics.square(4.0, 201)
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
    grid = metrics.square(half, cells)
    with torch.no_grad():
        log_z = grid.log_integral(-model.energy(grid.z.float()).double())
        return (model.energy(x).double().mean() + log_z).item()


def _ring(seed):
    world = datasets.ring(radius=1.0, sd=0.15)
    set_seed(seed)
    train, test = world.sample(10_000), world.sample(20_000)
    model = ring_model(seed).fit(train, steps=1500, seed=seed)
    gauss = torch.distributions.MultivariateNormal(train.mean(0), train.T.cov())
    still = ring_model(seed, n_steps=0).fit(train, steps=1500, seed=seed)
    turned = ring_model(seed)
    turned.net = lambda y: -model.net(y)
    got, unmoved = (metrics.coverage(each.sample(2500), world) for each in (model, still))
    elsewhere = metrics.coverage(turned.synthesise(torch.randn(2500, 2), 200), world)
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
