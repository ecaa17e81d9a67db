"""The command line: options, messages and exit status."""
import re

import pytest
import torch
from conftest import refusal

from abp import Config, main
from runs.device import choose_device, choose_precision
from runs.options import Interrupted, UserError, exit_status, parse_args


def test_options_set_the_fields_of_config():
    argv = ["--lr", "0.5", "--n_epochs=7", "--start", "cold", "--gamma", "1"]
    config, given = parse_args(Config, argv)
    assert (config.lr, config.n_epochs, config.start, config.gamma) == (0.5, 7, "cold", 1.0)
    assert type(config.gamma) is float and given == {"lr", "n_epochs", "start", "gamma"}


def test_options_of_the_course():
    names = ("start lr langevin_step_size langevin_num_steps mse_sigma seed nz img_size "
             "prior_sigma ninterp beta1 beta2 gamma n_epochs n_log n_plot n_stats data out "
             "resume batch_size").split()
    assert set(names) <= set(Config.__dataclass_fields__)


@pytest.mark.parametrize("argv, words", [
    (["--n_epoch", "5"], "--n_epoch"), (["--epochs", "5"], "--epochs"), (["--n_e=5"], "--n_e"),
    (["5"], "5"), (["--lr", "fast"], "--lr must be a number from"),
    (["--n_epochs", "2.5"], "--n_epochs must be an integer from 1"),
    (["--lr", "nan"], "--lr must be a number"), (["--mse_sigma", "inf"], "--mse_sigma must be"),
    (["--lr", "0"], "--lr must be"), (["--lr=-1"], "--lr must be"),
    (["--n_epochs", "0"], "--n_epochs must be"), (["--nz", "0"], "--nz must be"),
    (["--img_size", "100"], "power of two"), (["--img_size", "8"], "--img_size must be"),
    (["--start", "hot"], "one of both, warm, cold"), (["--beta1", "1"], "--beta1 must be"),
    (["--prior_sigma", "0"], "--prior_sigma must be"),
    (["--langevin_step_size=-0.1"], "--langevin_step_size must be"),
    (["--langevin_num_steps", "0"], "--langevin_num_steps must be"),
    (["--seed=-1"], "--seed must be"), (["--batch_size", "0"], "--batch_size must be"),
    (["--precision", "fp8"], "one of auto, fp32, bf16"),
    (["--n_epochs"], "expected one argument"), (["--data", "no/such"], "no such folder"),
    (["--resume", "no/such"], "no run folder"), (["--device", "gpu"], "--device"),
    (["--langevin_stepsize", "0.1"], "did you mean --langevin_step_size?")])
def test_invalid_options(capsys, argv, words):
    assert words in refusal(capsys, *argv)


def test_invalid_options_from_python():
    for bad in ({"lr": "0.1"}, {"n_epochs": 1.5}, {"nz": True}, {"start": "hot"},
                {"gamma": float("nan")}):
        with pytest.raises(UserError, match=f"--{next(iter(bad))} must be"):
            Config(**bad)
    with pytest.raises(AttributeError):
        Config().lr = 1.0


@pytest.mark.parametrize("error, status, words", [
    (UserError("--lr is odd"), 2, "error: --lr is odd"),
    (Interrupted("go on with X"), 130, "go on with X"),
    (KeyboardInterrupt(), 130, "--resume"), (MemoryError(), 2, "--batch_size"),
    (RuntimeError("can't allocate memory: 9 bytes"), 2, "--batch_size"),
    (PermissionError(13, "Permission denied", "log.txt"), 2, "log.txt: Permission denied")])
def test_messages_and_exit_status(capsys, error, status, words):
    def action():
        raise error

    assert exit_status("abp.py", action) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("abp.py: ") and words in err


def test_errors_of_the_program_are_raised():
    def action():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        exit_status("abp.py", action)


def test_precision_is_decided_by_capability(monkeypatch):
    for flags, wanted in (({}, "fp32"), ({"avx512_bf16": True}, "bf16"),
                          ({"amx_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert choose_precision("auto", "cpu") == wanted
    assert choose_precision("bf16", "cpu") == "bf16" and choose_precision("fp32", "cpu") == "fp32"


@pytest.mark.parametrize("wanted", ["cuda:", "cuda:99"])
def test_unknown_devices(wanted):
    with pytest.raises(UserError, match="--device"):
        choose_device(wanted)


def test_help_lists_every_option_and_its_default(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert done.value.code == 0
    for f in Config.__dataclass_fields__.values():
        default = f.default if f.default != "" else "none"
        assert f"--{f.name} " in text and f"(default: {default})" in text
    titles = ["what to run:", "handout:", "generator:", "learning:", "inference:", "output:"]
    places = [text.rindex(f" {title} ") for title in titles]
    assert places == sorted(places) and places[1] < text.rindex(" --ninterp INT ") < places[2]
