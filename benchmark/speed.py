"""Seconds of Langevin and learning steps, and of training to a PSNR."""
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from abp import ABP, Config
from benchmark.reference import Reference, public_net
from inference.samplers import langevin, smmala
from models import GenNet

ROUNDS = 15                                         # of each short measurement
CASES = [("smmala", 1, "warm"), ("mala", 2, "warm"), ("langevin", 2, "warm"), ("smmala", 1, "cold")]
THRESHOLDS = (20, 23, 26, 29)                       # PSNR in dB


def median_seconds(functions, device="cpu"):
    """Median seconds of functions that take turns, without the first round: {name: seconds}."""
    taken = {name: [] for name in functions}
    for _ in range(ROUNDS + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize(device)
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def forward_flops(net, z):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(z)
    return counter.get_total_flops()


def steps(images, device, precision):
    """Rows of a table: steps of this program and of the public loop, with its network and ours.

    A step is of all images. An inference step is one evaluation of the energy and its derivatives;
    a chain of 4 steps makes 5.
    """
    config, z = Config(img_size=images.shape[2]), torch.randn(len(images), 2, device=device)
    model, index = ABP(config, images, "warm", device, precision), torch.arange(len(images))
    posterior = model.posterior(images.to(device, memory_format=torch.channels_last))
    ours = GenNet(config.nz, config.img_size, config.hidden, config.width)
    public, same = Reference(images, public_net(config.img_size), z), Reference(images, ours, z)
    large, small = forward_flops(public.net, z), forward_flops(same.net, z)
    cases = {                                       # function, its number of steps, FLOPs of a step
        ("infer", "public loop"): (public.langevin_step, 1, 2 * large),
        ("infer", "public loop, our network"): (same.langevin_step, 1, 2 * small),
        ("infer", "langevin"): (lambda: langevin(posterior.energy, z, 4, 0.01), 5, 2 * small),
        ("infer", "smmala"): (lambda: smmala(posterior.local, z, 4), 5, 3 * small),
        ("learn", "public loop"): (public.learning_step, 1, 3 * large),
        ("learn", "public loop, our network"): (same.learning_step, 1, 3 * small),
        ("learn", "this program"): (lambda: model.learn(index, 0.0), 1, 3 * small)}
    for name, dtype in {"fp32": torch.float32, precision: model.dtype}.items():
        a = torch.randn(1536, 1536, device=device).to(dtype)
        cases["matrix product", name] = lambda a=a: a @ a, 1, 2 * len(a)**3
    seconds, rows = median_seconds({key: case[0] for key, case in cases.items()}, device), []
    for (step, name), (_, n_steps, flops) in cases.items():
        each = seconds[step, name] / n_steps
        rows.append({"step": step, "of": name, "ms": 1e3 * each, "steps/s": 1 / each,
                     "TFLOP/s": flops / each / 1e12})
        for loop in ("public loop", "public loop, our network"):
            base = seconds.get((step, loop))
            rows[-1][f"times {loop}"] = base and base / each
    return rows


def training(images, device, precision, n_epochs):
    """Train with each sampler, in turns -> rows of a table, the model of the default sampler."""
    models, rows = [], []
    for sampler, n_steps, start in CASES:
        config = Config(img_size=images.shape[2], n_epochs=n_epochs, sampler=sampler,
                        langevin_num_steps=n_steps)
        models.append(ABP(config, images, start, device, precision))
    for _ in zip(*models, strict=True):
        pass
    for (sampler, n_steps, start), model in zip(CASES, models, strict=True):
        last = model.history[-1]
        marks = {f"{d} dB: passes an image / s": reached(model.history, d) for d in THRESHOLDS}
        rows.append({"sampler": sampler, "steps": n_steps, "start": start} | marks
                    | {"PSNR at the end": last["psnr"], "acceptance": last["accept"]})
    return rows, models[0]


def reached(history, threshold):
    """Passes per image and seconds until the PSNR first reaches a threshold in dB, as text."""
    passes = seconds = 0
    for row in history:
        passes, seconds = passes + row["passes"], seconds + row["seconds"]
        if row["psnr"] >= threshold:
            return f"{passes:,.0f} / {seconds:,.0f}"
    return "not reached"
