"""Run folders: their files, resumption after kills, bad checkpoints, full disks."""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import PER_START, ROOT, SMALL, WHOLE, command, names, refusal, run_cli
from PIL import Image

import utils
from abp import Config, load_run, main
from inference import posterior
from inference.measures import sample_images
from runs import files
from runs.manuscript import METRICS
from runs.options import UserError
from runs.tables import read_csv


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    """A finished run of both starts, by a process without a screen."""
    out = tmp_path_factory.mktemp("runs") / "run"
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    done = run_cli(*command(faces, f"--out={out}"), env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return out


def same(a, b):
    """Whether two folders hold equal checkpoints, times excepted."""
    a, b = (files.load_checkpoint(folder / "checkpoint.pt") for folder in (a, b))
    keys = ("epoch", "generator", "optimizer", "z", "step", "rng")
    flat = [torch.utils._pytree.tree_leaves({k: c[k] for k in keys}) for c in (a, b)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
               for x, y in zip(*flat, strict=True))


@pytest.mark.parametrize("start", ["warm", "cold"])
def test_files_of_a_run(finished, start):
    folder = finished / start
    assert names(finished) == WHOLE and names(folder) == PER_START
    assert names(folder / "epochs") == {f"0003_{n}.png" for n in ("recon", "samples", "interp")}
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) >= 16 and np.asarray(image.convert("L")).std() > 1, path
    for path in folder.rglob("*.pdf"):
        data = path.read_bytes()
        assert data.startswith(b"%PDF") and b"%%EOF" in data[-32:], path
    rows = read_csv(folder / "log.csv")
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    assert {"epoch", "loss", "mse", "psnr", "z_mean_1", "z_mean_2", "z_std_1", "z_std_2",
            "grad_norm", "step", "accept", "unstable", "seconds"} <= set(rows[0])
    m = json.loads((folder / "metrics.json").read_text())
    assert (m["epochs"], m["n_images"], m["img_size"]) == (6, 6, 16)
    assert {"mse", "loss", "z_std", "sample_saturated", "sample_nearest_psnr_p10"} <= set(m)
    for key, (_, form) in METRICS.items():
        for table in ("metrics.md", "metrics.tex"):
            assert format(m[key], form) in (finished / table).read_text()


def test_record_of_a_run(finished, faces):
    record = json.loads((finished / "config.json").read_text())
    assert record["options"]["seed"] == 1
    assert set(record["options"]) == set(Config.__dataclass_fields__)
    assert record["images"] == files.hash_images(faces)
    assert record["versions"]["torch"] == torch.__version__
    assert record["precision"] == "fp32" and record["device"] == "cpu" and record["threads"] >= 1
    log = (finished / "log.txt").read_text()
    assert all(text in log for text in ("seed = 1", "cold epoch 6", *record["images"].values()))


def test_load_run(finished):
    config, net, z = load_run(finished / "warm")
    images = net(posterior.sample_gaussian_prior(5, config.nz, config.prior_sigma))
    assert images.shape == (5, 3, 16, 16) and z.shape == (6, 2)
    assert not net.training and not images.requires_grad
    assert not torch.equal(z, load_run(finished / "cold")[2])
    psnr = json.loads((finished / "warm" / "metrics.json").read_text())["psnr"]
    x, _ = utils.load_img_tensors(config.data, config.img_size)
    error = (net(z) - x).square().mean((1, 2, 3))
    assert (10 * torch.log10(4 / error)).mean().item() == pytest.approx(psnr, abs=1e-3)
    sheet = np.asarray(Image.open(finished / "warm" / "samples.png"))     # draws of the prior
    first = utils.to_pixels(sample_images(net, config)[0])
    assert np.abs(sheet[:16, :16].astype(int) - first).max() <= 1


def test_default_data_and_default_snapshots(tmp_path, monkeypatch):
    """From any folder; --n_plot 0 draws the half-way reconstructions of Figure 2."""
    monkeypatch.chdir(tmp_path)
    options = SMALL | {"start": "warm", "n_epochs": 4, "n_plot": 0, "out": "run"}
    assert main([f"--{k}={v}" for k, v in options.items()]) == 0
    assert len(json.loads((tmp_path / "run" / "config.json").read_text())["images"]) == 24
    snapshots = tmp_path / "run" / "warm" / "epochs"
    assert names(snapshots) == {f"000{k}_{name}.png" for k in (1, 2, 3)
                                for name in ("recon", "samples", "interp")}
    assert files.half_way(snapshots, 4) == (2, snapshots / "0002_recon.png")


@pytest.mark.parametrize("start, options", [
    ("warm", {}), ("cold", {"batch_size": 4}), ("warm", {"batch_size": 4, "mask": "pepper:0.5"}),
    ("cold", {"langevin_step_size": 0.05, "langevin_num_steps": 3})])
def test_restored_models_continue_bit_for_bit(make_model, tmp_path, start, options):
    whole = make_model(start, **options)
    list(whole)
    part = make_model(start, **options)
    for _, _ in zip(range(2), part, strict=False):
        pass
    files.save_model(part, tmp_path / "part.pt")
    again = make_model(start, **options)
    torch.manual_seed(99)                              # restore sets the random state
    files.restore(again, tmp_path / "part.pt")
    list(again)
    assert torch.equal(again.z, whole.z) and again.epoch == whole.epoch == 6
    for a, b in zip(again.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]


LONG = {"n_epochs": 40, "n_log": 7, "n_plot": 1000, "n_stats": 1000}


@pytest.fixture(scope="module")
def long_run(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("long") / "run"
    assert main(command(faces, f"--out={out}", **LONG)) == 0
    return out


def stop(faces, out, moment, lines, number):
    """Start a run, send it a signal once the file `moment` has so many lines -> status, stderr."""
    process = subprocess.Popen([sys.executable, str(ROOT / "abp.py"),
                                *command(faces, f"--out={out}", **LONG)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path = out / moment
    while process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= lines:
            process.send_signal(number)
            break
        time.sleep(0.01)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("moment, lines", [
    ("config.json", 0), ("warm/metrics.json", 0), ("cold/log.csv", 20)])
def test_a_killed_run_resumes_to_the_same_end(faces, tmp_path, long_run, moment, lines):
    out = tmp_path / "run"
    stop(faces, out, moment, lines, signal.SIGKILL)
    assert main(["--resume", str(out)]) == 0
    assert names(out) == WHOLE and names(out / "cold") == PER_START
    assert same(out / "warm", long_run / "warm") and same(out / "cold", long_run / "cold")
    assert len(read_csv(out / "cold" / "log.csv")) == 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_names_the_next_command(faces, tmp_path, number):
    out = tmp_path / "run"
    status, err = stop(faces, out, "warm/log.csv", 10, number)
    assert status == 130 and "Traceback" not in err
    assert f"python {ROOT / 'abp.py'} --resume {out.resolve()}" in err
    done = files.load_checkpoint(out / "warm" / "checkpoint.pt")["epoch"]
    assert 9 <= done < 40 and len(read_csv(out / "warm" / "log.csv")) == done


@pytest.fixture(scope="module")
def short_run(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("short") / "run"
    assert main(command(faces, f"--out={out}", start="warm", n_epochs=2)) == 0
    return out


def test_a_finished_run_is_extended(short_run, tmp_path):
    out = shutil.copytree(short_run, tmp_path / "run")
    assert main(["--resume", str(out), "--n_epochs", "5"]) == 0
    assert files.load_checkpoint(out / "warm" / "checkpoint.pt")["epoch"] == 5
    assert json.loads((out / "config.json").read_text())["options"]["n_epochs"] == 5
    assert json.loads((out / "warm" / "metrics.json").read_text())["epochs"] == 5


def test_invalid_changes_of_a_resumed_run(capsys, faces, tmp_path, finished):
    assert "--lr cannot change" in refusal(capsys, "--resume", finished, "--lr", "0.1")
    fewer = refusal(capsys, "--resume", finished, "--n_epochs", "3")
    assert "--n_epochs must be at least 6" in fewer
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(faces.iterdir())[1:]:
        Image.open(path).save(other / path.name)
    assert "face_01.png: is gone" in refusal(capsys, "--resume", finished, "--data", other)
    Image.new("RGB", (20, 20)).save(other / "face_01.png")
    assert "face_01.png: has changed" in refusal(capsys, "--resume", finished, "--data", other)


def test_runs_are_numbered_and_never_overwritten(tmp_path):
    record = {"options": {}}
    (tmp_path / "007").mkdir()
    (tmp_path / "notes").mkdir()
    first, second = (files.new_run_folder("", record, tmp_path) for _ in range(2))
    assert (first.name, second.name) == ("008", "009")
    assert names(tmp_path) == {"007", "008", "009", "notes"} and names(first) == {"config.json"}


@pytest.mark.parametrize("out, words", [
    ("used", "not empty"), ("used/file", "is a file"), ("used/file/run", "cannot be made"),
    ("/proc/run", "cannot be made")])
def test_unusable_output_folders(capsys, faces, tmp_path, out, words):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    assert words in refusal(capsys, *command(faces, f"--out={tmp_path / out}"))
    assert (tmp_path / "used" / "file").read_text() == "mine"
    assert names(tmp_path / "used") == {"file"} and names(tmp_path) == {"used"}


class Malicious:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("kind, words", [("truncated", "is damaged"), ("empty", "is damaged"),
                                         ("malicious", "was not opened"),
                                         ("other", "not a checkpoint"),
                                         ("configuration", "another configuration (--hidden)")])
def test_bad_checkpoints(capsys, faces, tmp_path, monkeypatch, short_run, kind, words):
    monkeypatch.chdir(tmp_path)
    out = shutil.copytree(short_run, tmp_path / "run")
    path = out / "warm" / "checkpoint.pt"
    if kind in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[:1000 if kind == "truncated" else 0])
    elif kind == "malicious":
        torch.save({"config": Malicious()}, path)
    elif kind == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        checkpoint = torch.load(path)
        checkpoint["config"]["hidden"] = 16
        torch.save(checkpoint, path)
    capsys.readouterr()
    assert words in refusal(capsys, "--resume", out)
    if kind != "configuration":
        with pytest.raises(UserError, match="checkpoint.pt"):
            load_run(out / "warm")
    assert not (tmp_path / "hacked").exists()


def test_a_full_disk_keeps_the_last_checkpoint(short_run, tmp_path):
    """A limit on the size of files fails at the same write."""
    out = shutil.copytree(short_run, tmp_path / "run")
    path = out / "warm" / "checkpoint.pt"
    before = path.read_bytes()

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run_cli("--resume", out, "--n_epochs", "4", "--n_plot", "100", preexec_fn=no_room)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert ": cannot be written (File too large)" in done.stderr and "--resume" in done.stderr
    assert path.read_bytes() == before and not list(out.rglob("*.tmp"))
    assert main(["--resume", str(out), "--n_epochs", "4"]) == 0


def test_a_diverging_run_stops_and_keeps_its_checkpoint(capsys, faces, tmp_path):
    out = tmp_path / "run"
    unstable = {"langevin_step_size": 10, "langevin_num_steps": 200}
    err = refusal(capsys, *command(faces, f"--out={out}", start="warm", **unstable))
    assert "face_0" in err and "epoch 1" in err and "--langevin_step_size" in err
    assert files.load_checkpoint(out / "warm" / "checkpoint.pt")["epoch"] == 0


@pytest.mark.parametrize("options", [{"nz": 1}, {"nz": 5, "n_epochs": 1},
                                     {"img_size": 64, "start": "cold", "precision": "bf16"}])
def test_other_runs_finish(faces, tmp_path, options):
    out = tmp_path / "run"
    assert main(command(faces, f"--out={out}", **{"start": "warm", "n_epochs": 2} | options)) == 0
    assert names(out / options.get("start", "warm")) == PER_START


def test_one_image_is_enough(faces, tmp_path):
    (tmp_path / "one").mkdir()
    Image.open(faces / "face_01.png").save(tmp_path / "one" / "a.png")
    assert main(command(tmp_path / "one", f"--out={tmp_path / 'run'}")) == 0
    assert names(tmp_path / "run") == WHOLE
    metrics = json.loads((tmp_path / "run" / "warm" / "metrics.json").read_text())
    assert metrics["z_std"] == 0 and metrics["n_images"] == 1
