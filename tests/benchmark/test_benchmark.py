"""The benchmark's parts against known answers, and on a small scale."""
from functools import partial

import pytest
import torch

from abp import Config
from benchmark import __main__ as benchmark
from benchmark import exactness, scaling, speed
from benchmark.reference import Reference, public_net
from models import GenNet
from runs.tables import read_csv


def test_chains_and_quadrature_agree_on_a_linear_generator(make_linear):
    model, _, covariance = make_linear(sigma=2.0, n=2)
    std = covariance.diagonal().sqrt().tolist()
    for row in exactness.compare(model):
        assert [row["std of z_1"], row["std of z_2"]] == pytest.approx(std, rel=0.01)
        assert abs(row["mean: chains - quadrature"]) < 4 * row["standard error"] < 0.2
        assert row["std: chains / quadrature"] == pytest.approx(1, abs=0.05)


def test_steps_of_the_reference():
    torch.manual_seed(0)
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    loop = Reference(images, public_net(32), torch.randn(5, 2))
    before, z = loop.squared_error(loop.z).item(), loop.z
    loop.langevin_step()
    assert loop.z.shape == (5, 2) and not loop.z.requires_grad
    assert 0 < (loop.z - z).abs().max() < 1
    for _ in range(5):
        loop.learning_step()
    assert loop.squared_error(loop.z).item() < before


def test_flops_are_counted():
    """Deconvolutions 16 -> 16 from 4 px and 8 px, 16 -> 3 from 16 px; linear 2 -> 8 -> 256."""
    net = GenNet(2, 32, 8, 2)
    deconvolutions = 2 * 16 * (16 * 16 * 16 + 16 * 16 * 64 + 16 * 3 * 256)
    assert speed.forward_flops(net, torch.zeros(1, 2)) == deconvolutions + 2 * (2 * 8 + 8 * 256)


def test_functions_take_turns_and_the_first_round_does_not_count(monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 3)
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    assert set(speed.median_seconds(functions)) == {"a", "b"} and order == ["a", "b"] * 4


def test_passes_and_seconds_to_a_psnr():
    history = [{"psnr": psnr, "passes": 100, "seconds": 2} for psnr in (10.0, 20.0, 19.0)]
    assert speed.reached(history, 15) == "200 / 4" and speed.reached(history, 23) == "not reached"


def test_every_part_writes_its_table(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "ROUNDS", 1)
    monkeypatch.setattr(speed, "Config", partial(Config, hidden=32, width=2, prior_draws=8))
    monkeypatch.setattr(exactness, "N_ADAPT", 10)
    monkeypatch.setattr(exactness, "N_STEPS", 20)
    monkeypatch.setattr(scaling, "SHAPES", [(2, 16)])
    options = ["--img_size=16", "--n_epochs=2", "--device=cpu", f"--out={tmp_path}"]
    assert benchmark.main([f"--data={faces}", *options]) == 0, capsys.readouterr().err
    printed, tables = capsys.readouterr().out, {}
    for part in benchmark.PARTS:
        assert (tmp_path / f"{part}.md").read_text(encoding="utf-8") in printed
        tables[part] = read_csv(tmp_path / f"{part}.csv")
    ours = [row for row in tables["speed"] if "our" in row["of"]]
    assert [float(row["times public loop, our network"]) for row in ours] == [1, 1]
    assert [row["start"] for row in tables["training"]] == ["warm", "warm", "warm", "cold"]
    assert len(tables["exactness"]) == 6
    assert float(tables["scaling"][0]["seconds"]) > 0 and int(tables["scaling"][0]["peak MB"]) > 100


def test_unknown_parts(capsys):
    assert benchmark.main(["--parts=speed,pace"]) == 2
    assert "--parts must be some of" in capsys.readouterr().err
