"""Six small drawn faces, small models, and the command line."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")      # tests run in parallel, one on each core

import pytest
import torch

from abp import ABP, Config, main
from data.draw import draw_set
from models import GenNet
from utils import load_img_tensors

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"img_size": 16, "hidden": 32, "width": 2, "n_epochs": 6, "learn_num_steps": 2,
         "prior_draws": 16, "n_log": 2, "n_plot": 3, "n_stats": 3, "ninterp": 3,
         "precision": "fp32", "device": "cpu"}

PER_START = {"recon.png", "samples.png", "interp.png", "interp.pdf", "loss.png", "loss.pdf",
             "latents.pdf", "log.csv", "metrics.json", "checkpoint.pt", "epochs", "frames",
             "training.webp", "walk.webp", "explorer.html"}
WHOLE = {"config.json", "log.txt", "warm", "cold", "warm_cold_recon.png", "warm_cold_samples.png",
         "warm_cold_interp.png", "warm_cold_loss.png", "warm_cold_loss.pdf", "metrics.tex",
         "metrics.md", "metrics.csv", "report"}


def names(folder):
    return {p.name for p in folder.iterdir()}


def refusal(capsys, *argv):
    """The error message of main on invalid arguments: one line, exit status 2."""
    assert main([str(a) for a in argv]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("abp.py: error: ")
    return err


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of six small drawn faces."""
    folder = tmp_path_factory.mktemp("faces")
    for face, image in draw_set(n=6, size=32):
        image.save(folder / f"{face.name}.png")
    return folder


@pytest.fixture(scope="session")
def images(faces):
    return load_img_tensors(faces, SMALL["img_size"])[0]


@pytest.fixture
def make_model(images):
    """make_model(start, **options): an ABP model on the six faces at 16 x 16."""
    def make(start="warm", x=images, **options):
        return ABP(Config(**SMALL | options), x, start)
    return make


def smooth_generator(nz=2, img_size=64, hidden=64, width=4):
    """An untrained generator of smooth pictures with contrast."""
    torch.manual_seed(1)
    net = GenNet(nz, img_size, hidden, width).requires_grad_(False)
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25])  # bilinear interpolation to twice the side
    for layer in net.deconv[::2]:
        layer.weight.copy_(2 * layer.weight[:, :, :1, :1] * taps.outer(taps))
    net.deconv[-2].weight.mul_(8)
    return net


class LinearNet(torch.nn.Module):
    """A generator g(z) = W z + b."""

    def __init__(self, layer):
        super().__init__()
        self.code = layer
        self.deconv = torch.nn.Sequential(torch.nn.Unflatten(1, (3, 16, 16)))

    def forward(self, z):
        return self.deconv(self.code(z))


@pytest.fixture
def make_linear(make_model):
    """make_linear(sigma, n, nz): an ABP model of a linear generator, and the mean (nz,) and
    covariance (nz, nz) of its Gaussian posterior."""
    def make(sigma, n=4000, nz=2, **options):
        generator = torch.Generator().manual_seed(3)
        layer = torch.nn.Linear(nz, 3 * 16 * 16)
        layer.weight.data = 0.15 * torch.randn(layer.weight.shape, generator=generator)
        layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator)
        z_true = torch.tensor([0.7, -0.4, 0.2, 1.0, 0.3][:nz])
        noise = 0.3 * torch.randn(layer.bias.shape, generator=generator)
        image = (layer.weight @ z_true + layer.bias + noise).detach().view(1, 3, 16, 16)
        options |= {"nz": nz, "mse_sigma": sigma, "sigma_start": sigma}
        model = make_model(x=image.expand(n, -1, -1, -1), **options)
        model.net = LinearNet(layer)
        prior = torch.eye(nz) / model.config.prior_sigma**2
        precision = layer.weight.T @ layer.weight / sigma**2 + prior
        pull = layer.weight.T @ (image.flatten() - layer.bias) / sigma**2
        mean, covariance = torch.linalg.solve(precision, pull), torch.linalg.inv(precision)
        return model, mean.detach(), covariance.detach()
    return make


def command(folder, *args, **small):
    """The argument list of abp.py on a folder of images with the small options."""
    options = SMALL | small
    return [f"--data={folder}", *[f"--{k}={v}" for k, v in options.items()], *map(str, args)]


def run_cli(*args, **kwargs):
    """python abp.py ARGS in a process, from another folder."""
    return subprocess.run([sys.executable, str(ROOT / "abp.py"), *map(str, args)],
                          capture_output=True, text=True, timeout=120,
                          **{"cwd": tempfile.gettempdir()} | kwargs)
