"""How the cost of an epoch grows with the number and the size of the images."""
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from abp import ABP, Config
from runs.options import UserError

COUNTS, SIDE = (11, 24, 96, 500), 128          # images, and their side in px
SIZES = (64, 128, 256)                         # px, of 24 images


def epoch_seconds(n, size, precision, epochs):
    """Seconds of the fastest of some epochs on n images of noise."""
    images = torch.rand(n, 3, size, size) * 2 - 1
    model = ABP(Config(img_size=size, n_epochs=epochs + 1), images, precision=precision)
    seconds = [row["seconds"] for row in model.train()]
    return min(seconds[1:])


def peak_megabytes(n, size, precision):
    """Peak memory of a process that trains, less that of one that only imports the program (Linux)."""
    return _peak(f"scaling.epoch_seconds({n}, {size}, {precision!r}, 1); ") - _peak("")


@cache
def _peak(code):
    """VmHWM is the process's own; what getrusage tells is inherited from the parent."""
    status = "open('/proc/self/status').read()"
    code = f"import scaling; {code}print({status}.split('VmHWM:')[1].split()[0])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True,
                          cwd=Path(__file__).parent)
    if done.returncode:
        raise UserError(f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout) // 1024


def power_fit(x, y):
    """y = fixed + b x^p, fixed >= 0: the least squares of log y over a grid of p -> (p, fixed). y > 0."""
    x, y = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    best = None
    for p in torch.arange(0.05, 2.0, 0.005).tolist():
        for share in torch.arange(0, 1, 0.01).tolist():
            fixed = share * y.min()
            b = ((y - fixed) / x**p).log().mean().exp()
            miss = (y.log() - (fixed + b * x**p).log()).square().sum().item()
            if best is None or miss < best[0]:
                best = miss, p, fixed.item()
    return best[1:]
