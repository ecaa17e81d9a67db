"""TensorBoard: the events of --tensorboard, and the message without the package."""
import sys

import pytest
from conftest import command, names, refusal

from abp import main
from runs.tables import read_csv

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def events(folder):
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_events_of_a_run(faces, tmp_path):
    run = tmp_path / "run"
    argv = command(faces, f"--out={run}", "--tensorboard", start="warm", n_epochs=4, n_plot=2)
    assert main(argv) == 0
    found = events(run / "warm")
    rows = read_csv(run / "warm" / "log.csv")
    assert set(found.Tags()["scalars"]) == set(rows[0])
    assert [(e.step, e.value) for e in found.Scalars("psnr")] == [
        (int(row["epoch"]), pytest.approx(float(row["psnr"]), rel=1e-5)) for row in rows]
    assert set(found.Tags()["images"]) == {"recon", "samples", "interp"}
    assert [e.step for e in found.Images("recon")] == [2]
    # a resumed run does not log its first epochs again
    assert main(["--resume", str(run), "--n_epochs=6"]) == 0
    assert [e.step for e in events(run / "warm").Scalars("psnr")] == [1, 2, 3, 4, 5, 6]


def test_missing_package(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    line = refusal(capsys, *command(faces, f"--out={tmp_path / 'run'}", "--tensorboard"))
    assert "pip install tensorboard" in line and names(tmp_path) == set()
