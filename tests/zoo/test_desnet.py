"""The descriptor: closed forms; a ring of 8 with log Z from a grid; drawn faces."""
import pytest
import torch
from torch import nn

from runs.files import ROOT, set_seed
from utils import load_img_tensors
from zoo import datasets, metrics
from zoo.desnet import DesNet, ImageNet, animals, mean_colour
from zoo.networks import mlp


class Linear(nn.Module):
    """f(Y) = w . Y: tilts N(0, sigma^2 I) to N(sigma^2 w, sigma^2 I)."""

    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n))

    def forward(self, y):
        return y @ self.w


def point_net(width=64):
    """f of points: (n, 2) -> (n,)."""
    return nn.Sequential(mlp(2, width, width, width, 1, activation=nn.SiLU), nn.Flatten(0))


def test_invalid_step():
    with pytest.raises(ValueError, match="below 2 sigma = 0.2"):
        DesNet(Linear(2), 0.1, 0.2, 1)


def test_a_linear_energy_learns_the_mean():
    """Maximum likelihood gives w = mean(Y) / sigma^2."""
    sigma = 2.0
    set_seed(0)
    data = torch.tensor([3.0, -2.0, 1.0]) + torch.randn(1000, 3)
    model = DesNet(Linear(3), sigma, 1.0, 10, lr=0.1, batch=1000).fit(data, steps=80)
    best = data.mean(0) / sigma**2
    assert (model.net.w - best).norm() < 0.03 * best.norm()


def test_the_gradient_is_that_of_the_likelihood():
    """With exact draws instead of chains the loss has the gradient of -log p, log Z by a grid."""
    set_seed(1)
    world, grid = datasets.ring(radius=1.0, sd=0.15), metrics.square(4.0, 101)
    model, real = DesNet(point_net(16).double(), 1.0, 0.1, 20), world.sample(1000).double()
    weights = list(model.net.parameters())
    with torch.no_grad():
        model.net[0][-1].weight.mul_(20)            # a nonlinear f

    def gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])

    log_p = -model.energy(grid.z)
    exact = gradient(model.energy(real).mean() + grid.log_integral(log_p))
    fake = grid.draw(log_p.detach().softmax(0), 100_000)
    assert (gradient(model.loss(real, fake)) - exact).norm() < 0.05 * exact.norm()


def test_the_energy_of_an_image_does_not_depend_on_its_batch():
    set_seed(2)
    net, y = ImageNet(16, 1.0).layers, torch.randn(4, 3, 16, 16)
    nn.init.normal_(net[-2].weight)
    with torch.no_grad():
        assert torch.allclose(net(y)[:1], net(y[:1]), atol=2e-5)


@pytest.mark.slow
def test_a_ring_is_learned():
    """-log p of held-out points is 1.09 for the truth and 2.19 for the best Gaussian."""
    set_seed(0)
    world = datasets.ring(radius=1.0, sd=0.15)
    train, test = world.sample(10_000), world.sample(20_000)
    model = DesNet(point_net(), 1.0, 0.1, 20, lr=2e-3).fit(train, steps=1500)

    def nll(half, cells):
        grid = metrics.square(half, cells)
        with torch.no_grad():
            log_z = grid.log_integral(-model.energy(grid.z.float()).double())
            return (model.energy(test).double().mean() + log_z).item()

    assert -world.log_prob(test).mean() < nll(3.0, 301) < 1.45
    assert nll(6.0, 1201) == pytest.approx(nll(3.0, 301), abs=1e-3)
    found = metrics.coverage(model.sample(2500), world)
    assert found.modes == 8 and found.quality > 0.93


@pytest.mark.slow
def test_drawn_faces_are_learned_by_short_chains():
    set_seed(0)
    data, _ = load_img_tensors(ROOT / "data" / "drawn", 64)
    model = animals(data)
    start = mean_colour(data)
    assert start.std((2, 3)).max() == 0
    fake = model.synthesise(start)
    far = model.synthesise(fake, 9 * model.n_steps)

    def balance(model):
        """Fraction of sign changes, and |mean| / std, of n in the last third of the steps."""
        n = torch.tensor(model.history[-len(model.history) // 3:])
        return (n.sign().diff() != 0).float().mean(), (n.mean() / n.std()).abs()

    def error(y):
        """Relative error of the mean of each of the 64 first filters, rectified."""
        with torch.no_grad():
            found, wanted = (model.net.layers[0](x).relu().mean((0, 2, 3)) for x in (y, data))
        return (found - wanted).norm() / wanted.norm()

    crossings, offset = balance(model)
    assert crossings > 0.1 and offset < 1
    crossings, offset = balance(animals(data, steps=40, lr=1e-9))                    # no learning
    assert crossings == 0 and offset > 10
    assert error(fake) < 0.15 < error(start)
    assert 0.2 < far.square().mean().sqrt() < 1          # 10 T steps stay in the range of pixels
    drift = (far - fake).norm() / (fake - start).norm()          # learning is non-convergent
    assert 0.3 < drift < 3
