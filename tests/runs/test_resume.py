"""Resumption from other folders, devices and checkpoints."""
import json
import sys

import pytest
from conftest import command, refusal
from PIL import Image

from abp import main
from runs import files
from runs.options import UserError


def test_a_resumed_run_without_tensorboard_writes_nothing(faces, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    assert main(command(faces, f"--out={run}", start="warm", n_epochs=1)) == 0
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    before = (run / "config.json").read_bytes()
    assert "pip install" in refusal(capsys, "--resume", run, "--tensorboard", "--n_epochs=2")
    assert (run / "config.json").read_bytes() == before
    assert main(["--resume", str(run), "--n_epochs=2"]) == 0


def test_a_run_resumes_from_another_folder(faces, tmp_path, monkeypatch):
    mask = Image.new("L", (16, 16), 255)
    mask.paste(0, (0, 0, 8, 8))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "faces").symlink_to(faces)
    monkeypatch.chdir(tmp_path)
    argv = command("faces", "--out=run", start="warm", n_epochs=1, mask="mask.png")
    assert main(argv) == 0
    monkeypatch.chdir(faces)
    assert main(["--resume", str(tmp_path / "run"), "--n_epochs=2"]) == 0


def test_a_run_of_another_device_is_named(faces, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(command(faces, f"--out={run}", start="warm", n_epochs=1)) == 0
    record = json.loads((run / "config.json").read_text())
    files.write_json(run / "config.json", record | {"device": "cuda:99"})
    assert "began on cuda:99" in refusal(capsys, "--resume", run)


def test_a_checkpoint_without_smooth_is_refused(tmp_path, make_model):
    path = tmp_path / "checkpoint.pt"
    files.save_model(make_model(), path)
    checkpoint = files.load_checkpoint(path)
    del checkpoint["smooth"]
    files.save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match="not a checkpoint"):
        files.load_checkpoint(path)
