"""Shared training loops."""
import pytest
import torch

from zoo.train import alternate, constant, descend, linear, running_mean, scheduled


def test_descend_finds_the_minimum_and_leaves_fixed_weights_alone():
    x = torch.nn.Parameter(torch.zeros(3))
    fixed = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    target = torch.tensor([1.0, -2.0, 0.5])
    losses = descend([x, fixed], lambda: (fixed * x - target).square().sum(), 200, 0.1)
    assert torch.allclose(x, target, atol=1e-3) and fixed == 1
    assert len(losses) == 200 and losses[-1] < 1e-5


def test_clip_bounds_the_gradient():
    x = torch.nn.Parameter(torch.zeros(4))
    descend([x], lambda: 100 * x.sum(), 1, 0.1, clip=1.0, schedule=constant)
    assert x.grad.norm() == pytest.approx(1.0, rel=1e-3)


def test_a_scheduled_rate_falls_to_0():
    optimizer, rates = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.5), []
    scheduler = scheduled(optimizer, 2, linear)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0]


def test_players_move_in_order_and_keep_gradients_apart():
    a, b = (torch.nn.Parameter(torch.tensor(value)) for value in (1.0, 2.0))
    first, second = (torch.optim.SGD([p], 0.1) for p in (a, b))
    losses = alternate((first, lambda: a * b, 2), (second, lambda: -a * b, 1))
    # a: 1 - 2 * .1 * 2 = .6, then b: 2 + .1 * .6 = 2.06; losses before the last step of each
    assert torch.allclose(torch.stack([a, b]), torch.tensor([0.6, 2.06]))
    assert losses == pytest.approx([0.8 * 2.0, -0.6 * 2.0])
    assert a.grad == 2.0 and b.grad == pytest.approx(-0.6)
    with pytest.raises(ValueError, match="at least 1 step"):
        alternate((first, lambda: a, 0))


def test_a_running_mean_starts_at_the_weights_and_follows_them():
    net = torch.nn.Linear(2, 1)
    first, mean = net.weight.detach().clone(), running_mean(net, 0.9)
    with torch.no_grad():
        net.weight += 1
    mean.update_parameters(net)
    assert torch.allclose(mean.module.weight, first + 0.1)
    assert not any(p.requires_grad for p in mean.parameters())
