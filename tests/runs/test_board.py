"""TensorBoard: what --tensorboard writes, and what it says where the package is missing."""
import sys

import pytest
from conftest import command, names, refusal

from abp import main

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def events(folder):
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_a_run_logs_every_epoch_and_the_pictures_of_its_snapshots(faces, tmp_path):
    run = tmp_path / "run"
    argv = command(faces, f"--out={run}", "--tensorboard", start="warm", n_epochs=4, n_plot=2)
    assert main(argv) == 0
    found = events(run / "warm")
    rows = (run / "warm" / "log.csv").read_text().splitlines()
    keys = rows[0].split(",")
    assert set(found.Tags()["scalars"]) == set(keys)
    psnr = [float(row.split(",")[keys.index("psnr")]) for row in rows[1:]]
    assert [(e.step, e.value) for e in found.Scalars("psnr")] == [
        (epoch, pytest.approx(value, rel=1e-5)) for epoch, value in enumerate(psnr, 1)]
    assert set(found.Tags()["images"]) == {"recon", "samples", "interp"}
    assert [e.step for e in found.Images("recon")] == [2]
    # a longer run goes on where the log ended, without a second account of the epochs before
    assert main(["--resume", str(run), "--n_epochs=6"]) == 0
    assert [e.step for e in events(run / "warm").Scalars("psnr")] == [1, 2, 3, 4, 5, 6]


def test_without_the_option_there_are_no_events_and_no_import(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(command(faces, f"--out={tmp_path / 'run'}", start="warm", n_epochs=1)) == 0
    assert not list((tmp_path / "run").rglob("events.*"))


def test_a_missing_package_is_named_in_one_line(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refusal(capsys, *command(faces, f"--out={tmp_path / 'run'}", "--tensorboard"))
    assert "pip install tensorboard" in line and names(tmp_path) == set()
