"""Seconds and memory of an epoch for several numbers and sizes of images."""
import subprocess
import sys
from pathlib import Path

import torch

from abp import ABP, Config
from runs.files import ROOT
from runs.options import UserError

SHAPES = [(11, 128), (24, 128), (96, 128), (500, 128), (24, 64), (24, 256)]   # images, side [px]


def measure(device, precision):
    """Rows of a table: seconds and peak memory for each number and size, a process for each."""
    rows = []
    for n, side in SHAPES:
        code = f"from benchmark.scaling import epoch; epoch({n}, {side}, {device!r}, {precision!r})"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT,
                              capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{n} images of {side} px: {done.stderr.strip().splitlines()[-1]}")
        seconds, peak = done.stdout.split()
        rows.append({"images": n, "side": side, "seconds": float(seconds), "peak MB": int(peak)})
    return rows


def epoch(n, side, device, precision):
    """Print the seconds of the faster of epochs 2 and 3 and the peak memory [MB].

    Memory is that of the GPU, or of this process (Linux).
    """
    images = torch.rand(n, 3, side, side) * 2 - 1
    model = ABP(Config(img_size=side, n_epochs=3), images, "warm", device, precision)
    seconds = min([row["seconds"] for row in model][1:])
    if device == "cpu":                # VmHWM: getrusage's value is inherited from the parent
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    else:
        peak = torch.cuda.max_memory_allocated(device)
    print(seconds, peak // 2**20)
