"""The benchmark's instruments against known answers, and every part of it on a small scale."""
import pytest
import torch
from conftest import LinearNet

from benchmark import __main__ as bench
from benchmark import scaling
from benchmark.reference import PublicNet, Reference
from evaluation.diagnostics import (
    bulk_ess,
    compare_with_grid,
    effective_samples,
    grid_moments,
    moment_gaps,
    moments,
    smmala_draws,
)
from inference.posterior import Posterior
from models import GenNet
from runs.files import hash_images, write_json


@pytest.fixture
def linear():
    """The posteriors of a linear generator for three images, and their closed form."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 3 * 16 * 16).requires_grad_(False)
    layer.weight *= torch.tensor([4.0, 1.0])
    images = torch.randn(3, 3, 16, 16)
    weight, sigma = layer.weight.double(), 2.0
    precision = weight.T @ weight / sigma**2 + torch.eye(2)
    mean = torch.linalg.solve(precision, weight.T @ (images.flatten(1) - layer.bias).double().T / sigma**2).T
    return Posterior(LinearNet(layer), images, sigma), mean, torch.linalg.inv(precision).expand(3, 2, 2)


def test_effective_samples_of_independent_and_of_correlated_draws():
    torch.manual_seed(0)
    draws, rho = torch.randn(2000, 4, 3, 2), 0.9
    assert torch.allclose(bulk_ess(draws), torch.tensor(8000.0, dtype=torch.double), rtol=0.1)
    for k in range(1, len(draws)):
        draws[k, :, :, 1] = rho * draws[k - 1, :, :, 1] + (1 - rho**2) ** 0.5 * draws[k, :, :, 1]
    expected = torch.tensor(8000 * (1 - rho) / (1 + rho), dtype=torch.double)
    assert torch.allclose(bulk_ess(draws), expected, rtol=0.2)


def test_the_grid_finds_the_moments_of_a_linear_generator(linear):
    posterior, mean, covariance = linear
    off_centre = (mean + 0.3 * covariance.diagonal(dim1=1, dim2=2).sqrt()).float()
    found = grid_moments(posterior, off_centre, 1.2 * torch.linalg.cholesky(covariance).float())
    gap, ratio = moment_gaps(mean, covariance, *found)
    assert gap.max() < 1e-3 and torch.allclose(ratio, torch.ones(3, dtype=torch.double), atol=1e-3)


def test_gaps_between_moments_are_in_stds_of_the_worst_coordinate():
    mean, covariance = torch.zeros(1, 2), torch.diag(torch.tensor([4.0, 0.25]))[None]
    other = torch.tensor([[1.0, 0.1]]), covariance * torch.tensor([1.0, 4.0])
    gap, ratio = moment_gaps(mean, covariance, *other)
    assert (gap.item(), ratio.item()) == pytest.approx((0.5, 2.0))


def test_every_sampler_is_compared_and_smmala_has_the_moments(linear):
    posterior, mean, covariance = linear
    torch.manual_seed(0)
    rows, (z, step) = effective_samples(posterior, mean.float(), 100)
    draws = smmala_draws(posterior, z, step, 300)
    assert [row[0].split(",")[0] for row in rows] == ["langevin", "langevin", "rw_mh", "mala", "smmala"]
    assert [row[3] for row in rows] == ["2", "2", "1", "2", "3"]
    assert float(rows[-1][-1]) > 1.5 and draws.shape == (300, 4, 3, 2)
    gap, ratio = moment_gaps(mean, covariance, *moments(draws))
    assert gap.max() < 0.12 and (ratio - 1).abs().max() < 0.12
    compared = compare_with_grid(posterior, posterior, draws)
    assert len(compared) == 3 and all(float(row[4]) < 0.12 and float(row[7]) == 0 for row in compared)


def test_exponents_are_recovered():
    x = [11, 24, 96, 500]
    for fixed, p in ((0.0, 1.0), (5.0, 1.1), (20.0, 0.6)):
        found, f = scaling.power_fit(x, [fixed + 0.3 * v**p for v in x])
        assert found == pytest.approx(p, abs=0.03) and f == pytest.approx(fixed, abs=0.6)


def test_the_reference_is_what_it_says():
    torch.manual_seed(0)
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    reference = Reference(images)
    assert isinstance(reference.net, PublicNet) and reference.net(reference.z).shape == images.shape
    assert reference.langevin_step(reference.z).shape == (5, 2) and not reference.z.requires_grad
    before = reference.net.first.weight.clone()
    assert 5 < reference.epoch() < 20 and not torch.equal(reference.net.first.weight, before)


def test_flops_are_counted():
    """(c, out, side) of a 32 px generator of width 2: (16, 16, 4), (16, 16, 8), (16, 3, 16)."""
    expected = 2 * 16 * (16 * 16 * 16 + 16 * 16 * 64 + 16 * 3 * 256)
    assert bench.deconv_flops(GenNet(2, 32, 8, 2)) == expected


def test_ways_take_turns_and_the_first_round_does_not_count():
    order = []
    seconds = bench.median_seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4 and set(seconds) == {"a", "b"}


@pytest.mark.parametrize("known, parts", [(True, bench.BenchConfig.parts), (False, "training")])
def test_every_part_of_the_benchmark_runs(faces, tmp_path, monkeypatch, capsys, known, parts):
    monkeypatch.setattr(scaling, "COUNTS", (2, 4))
    monkeypatch.setattr(scaling, "SIZES", (16, 32))
    monkeypatch.setattr(scaling, "SIDE", 16)
    curve = tmp_path / "curve.json"
    recorded = {"img_size": 16, "psnr": [10.0, 20.5], "images": hash_images(faces) if known else {}}
    write_json(curve, recorded)
    monkeypatch.setattr(bench, "CURVE", curve)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "gemm", lambda dtype: (lambda: torch.ones(8, 8) @ torch.ones(8, 8), 1024))
    out = tmp_path / "tables.md"
    status = bench.main([f"--data={faces}", f"--parts={parts}", f"--out={out}", "--img_size=16", "--rounds=3",
                         "--n_epochs=3", "--n_steps=30", "--n_moments=40"])
    assert status == 0, capsys.readouterr().err
    text = out.read_text(encoding="utf-8")
    assert text == capsys.readouterr().out.split("\n\n", 1)[1].rstrip("\n") + "\n"
    assert "nan" not in text and "| smmala, 1 steps |" in text
    assert ("| reference loop | 486 / " in text) == known
    assert text.count("### ") == (8 if known else 1) and ("is not known" in text) != known
    for line in text.splitlines():
        if line.startswith("| 24 images of"):
            assert all(float(cell) > 0 for cell in line.split("|")[2:4])


def test_peak_memory_is_that_of_the_child_alone():
    alone = scaling._peak("")
    held = torch.ones(100_000_000)                 # 400 MB here must not be seen there
    scaling._peak.cache_clear()
    assert len(held) and scaling._peak("") < alone + 100
    assert scaling._peak("import torch; torch.ones(100_000_000); ") > alone + 300


def test_chains_that_never_move_have_no_effective_samples():
    torch.manual_seed(0)
    draws = torch.randn(100, 4, 3, 2)
    draws[:, :, 1] = 0.5
    ess = bulk_ess(draws)
    assert ess[1] == 0 and ess[0] > 100 and ess[2] > 100


def test_the_benchmark_refuses_unknown_parts(capsys):
    assert bench.main(["--parts=steps,speed"]) == 2
    assert "--parts" in capsys.readouterr().err
