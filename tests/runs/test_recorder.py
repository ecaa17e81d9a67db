"""Run folders: what they hold, resumption bit for bit, kills at any moment, every way a disk can
refuse."""
import csv
import dataclasses
import json
import os
import resource
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
from abp import ABP, Config, load_run, main
from inference import posterior
from inference.measures import sample_images
from runs import files
from runs.manuscript import METRICS
from runs.options import UserError


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    """A finished run of both starts, made by the command line in a process of its own, without a
    screen."""
    out = tmp_path_factory.mktemp("runs") / "run"
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    done = run_cli(*command(faces, f"--out={out}"), env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return out


def same(a, b):
    """Whether two checkpoints hold the same weights, optimizer, latents and random state, bit for
    bit."""
    a, b = (files.load_checkpoint(folder / "checkpoint.pt") for folder in (a, b))
    keys = ("epoch", "generator", "optimizer", "z", "step", "rng")
    flat = [torch.utils._pytree.tree_leaves({k: c[k] for k in keys}) for c in (a, b)]
    return len(flat[0]) == len(flat[1]) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x,
        y in zip(*flat, strict=True))


# ---- what a run leaves behind

def test_a_run_folder_holds_what_the_contract_says(finished):
    assert names(finished) == WHOLE
    for start in ("warm", "cold"):
        assert names(finished / start) == PER_START
        assert names(finished / start / "epochs") == {f"0003_{n}.png"
                                                      for n in ("recon", "samples", "interp")}


def test_pictures_and_pdfs_are_sound(finished):
    for path in finished.rglob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 16 and np.asarray(image.convert("L")).std() > 1, path
    for path in finished.rglob("*.pdf"):
        data = path.read_bytes()
        assert data.startswith(b"%PDF") and b"%%EOF" in data[-32:], path


def test_the_record_holds_options_seed_versions_and_hashes(finished, faces):
    record = json.loads((finished / "config.json").read_text())
    assert record["options"]["seed"] == 1
    assert set(record["options"]) == set(Config.__dataclass_fields__)
    assert record["images"] == files.hash_images(faces)
    assert record["versions"]["torch"] == torch.__version__
    assert record["precision"] == "fp32" and record["device"] == "cpu" and record["threads"] >= 1
    log = (finished / "log.txt").read_text()
    assert "seed = 1" in log and all(h in log
                                     for h in record["images"].values()) and "cold epoch 6" in log


def test_the_log_has_a_row_for_every_epoch(finished):
    for start in ("warm", "cold"):
        with open(finished / start / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4, 5, 6]
        assert {"epoch", "loss", "mse", "psnr", "z_mean_1", "z_mean_2", "z_std_1", "z_std_2",
                "grad_norm", "step", "accept", "unstable", "seconds"} <= set(rows[0])
        assert all(float(r["loss"]) > 0 for r in rows)


def test_metrics_and_tables_agree(finished):
    for start in ("warm", "cold"):
        m = json.loads((finished / start / "metrics.json").read_text())
        assert {"psnr", "mse", "loss", "z_std", "z_mean_square", "seconds", "epochs", "n_images",
                "img_size", "sample_saturated", "sample_nearest_psnr",
                "sample_nearest_psnr_p10"} <= set(m)
        assert (m["epochs"], m["n_images"], m["img_size"]) == (6, 6, 16)
        for key, (_, form) in METRICS.items():
            for table in ("metrics.md", "metrics.tex"):
                assert format(m[key], form) in (finished / table).read_text()


def test_warm_and_cold_differ(finished):
    a, b = (load_run(finished / start) for start in ("warm", "cold"))
    assert not torch.equal(a[2], b[2])


def test_load_run_draws_new_images_in_five_lines(finished):
    config, net, z = load_run(finished / "warm")
    images = net(posterior.sample_gaussian_prior(5, config.nz, config.prior_sigma))
    assert images.shape == (5, 3, 16, 16) and z.shape == (6, 2)
    assert not net.training and not images.requires_grad
    psnr = json.loads((finished / "warm" / "metrics.json").read_text())["psnr"]
    x, _ = utils.load_img_tensors(config.data, config.img_size)
    error = (net(z) - x).square().mean((1, 2, 3))
    assert (10 * torch.log10(4 / error)).mean().item() == pytest.approx(psnr, abs=1e-3)


def test_the_samples_picture_shows_draws_of_the_prior(finished):
    config, net, _ = load_run(finished / "warm")
    sheet = np.asarray(Image.open(finished / "warm" / "samples.png"))
    first = utils.to_pixels(sample_images(net, config)[0])
    assert np.abs(sheet[:16, :16].astype(int) - first).max() <= 1


def test_checkpoints_are_plain_data(finished):
    checkpoint = torch.load(finished / "warm" / "checkpoint.pt", weights_only=True)
    assert set(checkpoint) == {*files.CHECKPOINT, "smooth"} and checkpoint["smooth"] == 0
    assert checkpoint["epoch"] == 6 == len(checkpoint["history"])
    assert checkpoint["z"].shape == (6, 2)
    assert checkpoint["image_names"] == [f"face_0{k}.png" for k in range(1, 7)]


def test_the_default_data_is_found_from_anywhere(tmp_path):
    options = [f"--{k}={v}" for k, v in (SMALL | {"start": "warm", "n_epochs": 1}).items()]
    done = run_cli(f"--out={tmp_path / 'run'}", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "run" / "config.json").read_text())["images"]) == 24


# ---- resumption

@pytest.mark.parametrize("start", ["warm", "cold"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"mask": "pepper:0.5"},
                                     {"langevin_step_size": 0.05, "langevin_num_steps": 3}])
def test_n_epochs_are_k_epochs_and_resume_bit_for_bit(make_model, tmp_path, start, options):
    whole = make_model(start, **options)
    list(whole)
    part = make_model(start, **options)
    for _, _ in zip(range(2), part, strict=False):
        pass
    files.save_model(part, tmp_path / "part.pt")
    again = make_model(start, **options)
    torch.manual_seed(99)                         # restore must not depend on the state it meets
    files.restore(again, tmp_path / "part.pt")
    list(again)
    assert torch.equal(again.z, whole.z) and again.epoch == whole.epoch == 6
    for a, b in zip(again.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]


def start_process(faces, out, **small):
    return subprocess.Popen([sys.executable, str(ROOT / "abp.py"),
                             *command(faces, f"--out={out}", **small)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    for _ in range(3000):
        if condition() or process.poll() is not None:
            break
        time.sleep(0.01)


LONG = {"n_epochs": 60, "n_log": 7, "n_plot": 1000, "n_stats": 1000}


@pytest.fixture(scope="module")
def long_run(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("long") / "run"
    assert main(command(faces, f"--out={out}", **LONG)) == 0
    return out


@pytest.mark.parametrize("moment", ["config.json", "warm/log.csv", "warm/metrics.json",
                                    "cold/log.csv"])
def test_a_killed_run_resumes_to_the_same_end(faces, tmp_path, long_run, moment):
    out = tmp_path / "run"
    process = start_process(faces, out, **LONG)
    lines = 20 if moment.endswith("csv") else 0
    wait_for(lambda: (out / moment).exists() and (out / moment).read_text().count("\n") >= lines,
             process)
    process.kill()
    process.communicate()
    assert (out / "config.json").exists()
    assert main(["--resume", str(out)]) == 0
    assert names(out) == WHOLE and names(out / "cold") == PER_START
    assert same(out / "warm", long_run / "warm") and same(out / "cold", long_run / "cold")
    assert len((out / "warm" / "log.csv").read_text().splitlines()) == 61


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(faces, tmp_path, long_run, number):
    out = tmp_path / "run"
    process = start_process(faces, out, **LONG)
    log = out / "warm" / "log.csv"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 10, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert f"python {ROOT / 'abp.py'} --resume {out.resolve()}" in err
    done = files.load_checkpoint(out / "warm" / "checkpoint.pt")["epoch"]
    assert 9 <= done < 60 and len(log.read_text().splitlines()) == done + 1
    assert main(["--resume", str(out)]) == 0
    assert same(out / "warm", long_run / "warm") and same(out / "cold", long_run / "cold")


def test_a_finished_run_is_extended(faces, tmp_path):
    out = tmp_path / "run"
    assert main(command(faces, f"--out={out}", start="warm", n_epochs=2)) == 0
    assert main(["--resume", str(out), "--n_epochs", "5"]) == 0
    assert files.load_checkpoint(out / "warm" / "checkpoint.pt")["epoch"] == 5
    assert json.loads((out / "config.json").read_text())["options"]["n_epochs"] == 5
    assert json.loads((out / "warm" / "metrics.json").read_text())["epochs"] == 5


def test_resuming_refuses_what_would_change_the_run(capsys, faces, tmp_path, finished):
    assert "--lr cannot change" in refusal(capsys, "--resume", finished, "--lr", "0.1")
    assert "--n_epochs must be at least 6" in refusal(capsys, "--resume", finished, "--n_epochs",
                                                      "3")
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(faces.iterdir())[1:]:
        Image.open(path).save(other / path.name)
    assert "face_01.png: is gone" in refusal(capsys, "--resume", finished, "--data", other)
    Image.new("RGB", (20, 20)).save(other / "face_01.png")
    assert "face_01.png: has changed" in refusal(capsys, "--resume", finished, "--data", other)


# ---- folders and disks

def test_runs_are_numbered_and_never_overwritten(tmp_path):
    record = {"options": {}}
    (tmp_path / "007").mkdir()
    (tmp_path / "notes").mkdir()
    first, second = (files.new_run_folder("", record, tmp_path) for _ in range(2))
    assert (first.name, second.name) == ("008", "009")
    assert names(tmp_path) == {"007", "008", "009", "notes"} and names(first) == {"config.json"}


def test_an_output_folder_in_use_is_refused_and_left_alone(capsys, faces, tmp_path, finished):
    before = (finished / "warm" / "checkpoint.pt").read_bytes()
    assert "not empty" in refusal(capsys, *command(faces, f"--out={finished}"))
    assert (finished / "warm" / "checkpoint.pt").read_bytes() == before
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refusal(capsys, *command(faces, f"--out={tmp_path / 'file'}"))
    assert "cannot be made" in refusal(capsys,
                                       *command(faces, f"--out={tmp_path / 'file' / 'run'}"))
    assert "cannot be made" in refusal(capsys, *command(faces, "--out=/proc/run"))
    assert (tmp_path / "file").read_text() == "mine" and names(tmp_path) == {"file"}


def test_bad_images_leave_no_run_folder(capsys, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("text")
    err = refusal(capsys, *command(tmp_path / "images", f"--out={tmp_path / 'run'}"))
    assert "a.jpg: cannot be read" in err
    assert names(tmp_path) == {"images"}


class Malicious:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("kind, words", [("truncated", "is damaged"), ("empty", "is damaged"),
                                         ("malicious", "was not opened"),
                                         ("other", "not a checkpoint"),
                                         ("configuration", "another configuration (--hidden)")])
def test_bad_checkpoints_are_refused(capsys, faces, tmp_path, monkeypatch, kind, words):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    assert main(command(faces, f"--out={out}", start="warm", n_epochs=2)) == 0
    path = out / "warm" / "checkpoint.pt"
    if kind in ("truncated", "empty"):
        path.write_bytes(path.read_bytes()[:1000 if kind == "truncated" else 0])
    elif kind == "malicious":
        torch.save({"config": Malicious()}, path)
    elif kind == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        options = SMALL | {"hidden": 16, "start": "warm", "n_epochs": 2}
        image_names = [p.name for p in sorted(faces.iterdir())]
        model = ABP(Config(**options), torch.zeros(6, 3, 16, 16), names=image_names)
        model.config = dataclasses.replace(model.config, out=str(out))
        files.save_model(model, path)
    capsys.readouterr()
    assert words in refusal(capsys, "--resume", out)
    if kind != "configuration":
        with pytest.raises(UserError, match="checkpoint.pt"):
            load_run(out / "warm")
    assert not (tmp_path / "hacked").exists()


def test_a_full_disk_keeps_the_last_good_checkpoint(faces, tmp_path):
    """A limit on the size of files stands in for the full disk: the write fails in the same
    place."""
    out = tmp_path / "run"
    assert main(command(faces, f"--out={out}", start="warm", n_epochs=2)) == 0
    path = out / "warm" / "checkpoint.pt"
    before = path.read_bytes()

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run_cli("--resume", out, "--n_epochs", "4", "--n_plot", "100", preexec_fn=no_room)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert ": cannot be written (File too large)" in done.stderr and "--resume" in done.stderr
    assert (out / "warm" / "checkpoint.pt").read_bytes() == before
    assert not list(out.rglob("*.tmp"))
    assert main(["--resume", str(out), "--n_epochs", "4"]) == 0


def test_a_diverging_run_stops_and_keeps_its_checkpoint(capsys, faces, tmp_path):
    out = tmp_path / "run"
    unstable = {"langevin_step_size": 10, "langevin_num_steps": 200}
    err = refusal(capsys, *command(faces, f"--out={out}", start="warm", **unstable))
    assert "face_0" in err and "epoch 1" in err and "--langevin_step_size" in err
    assert files.load_checkpoint(out / "warm" / "checkpoint.pt")["epoch"] == 0


# ---- shapes of runs

@pytest.mark.parametrize("options", [{"nz": 1}, {"nz": 5}, {"img_size": 64, "n_epochs": 5},
                                     {"start": "cold"}, {"n_epochs": 1}, {"precision": "bf16"}])
def test_other_shapes_of_runs_finish(faces, tmp_path, options):
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
