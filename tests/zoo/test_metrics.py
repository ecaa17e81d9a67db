"""Data of known density, and the measures that compare models with it."""
import math

import pytest
import torch

from zoo import datasets, metrics


def test_densities_on_a_grid_integrate_to_one_and_agree_with_samples():
    world, grid = datasets.ring(5, 1.0, 0.3), metrics.square(3.0, 120)
    log_p = world.log_prob(grid.z)
    assert grid.log_integral(log_p) == pytest.approx(0, abs=1e-4)
    found = grid.histogram(world.sample(200_000, torch.Generator().manual_seed(0)))
    coarse = [p.view(40, 3, 40, 3).sum((1, 3)) for p in (found, log_p.exp() * grid.area)]
    assert metrics.total_variation(*coarse) < 0.03
    grid = metrics.square(4.0, 15)
    masses = grid.masses(lambda z: -z.square().sum(1) / 2)
    assert masses.sum() == pytest.approx(1)
    assert metrics.total_variation(grid.histogram(torch.randn(100_000, 2)), masses) < 0.03
    assert metrics.total_variation(grid.histogram(grid.draw(masses, 100_000)), masses) < 0.03


def test_coverage_counts_modes_and_finds_a_collapse():
    world = datasets.ring(25, 5.0)
    full = metrics.coverage(world.sample(5000, torch.Generator().manual_seed(0)), world)
    assert full.modes == 25 and full.kl < 0.01
    assert full.quality == pytest.approx(1 - math.exp(-4.5), abs=0.01)  # a Gaussian within 3 stds
    collapsed = metrics.coverage(world.centres[:1] + 0.1 * torch.randn(500, 2), world)
    assert collapsed.modes == 1 and collapsed.kl == pytest.approx(math.log(25))
    assert metrics.coverage(torch.full((500, 2), 9.0), world) == (0, 0.0, math.inf)


def test_a_two_sample_test_tells_a_shift_from_equal_distributions():
    torch.manual_seed(0)
    x, same = torch.randn(2000, 2), torch.randn(2000, 2)
    assert metrics.tell_apart(x, same, steps=100) == pytest.approx(0.5, abs=0.05)
    assert metrics.tell_apart(x, same + 3, steps=100) > 0.95


def test_distances_between_images():
    x = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    assert metrics.pair_distance(x) == 2.0
    assert metrics.nearest(x, x) == 0.0
    assert metrics.nearest(x, x, itself=True) == pytest.approx(4 / 3)
    assert metrics.nearest(x, x[2:]) == pytest.approx(5 / 3)


def test_the_split_of_the_digits_is_fixed():
    (train, labels), (test, classes) = datasets.digits()
    assert train.shape == (1400, 1, 8, 8) and test.shape == (397, 1, 8, 8)
    assert train.min() == 0 and train.max() == 1 and (train * 16 == (train * 16).round()).all()
    assert labels.bincount().min() > 120 and classes.bincount().min() >= 30
