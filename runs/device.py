"""Where to compute, and which of several ways is the fastest there."""
import platform
import subprocess
import time
from pathlib import Path

import torch

from runs.options import UserError


def choose_device(wanted):
    """"auto", "cpu" or "cuda" -> "cpu" or "cuda"; auto takes a CUDA GPU if there is one.

    A GPU is told to compute the same thing twice, and float32 where float32 is meant. Raises UserError if
    there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise UserError("--device cuda: this machine has no CUDA GPU; use --device cpu in a new run")
    if wanted == "cpu" or not has_gpu:
        return "cpu"
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def machine_name(device):
    """What a run was timed on: the name of the GPU if it computes, or that of the processor."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return platform.processor() or platform.machine()


def fastest(ways, rounds=8):
    """The name of the way that ran fastest in its best round: {name: function without arguments} -> name.

    They take turns, so that a busy machine slows all alike; the first round only warms up, and a way that
    proves three times slower is given up. Each function must return after its work is done, on a GPU too.
    """
    best = dict.fromkeys(ways, float("inf"))
    for k in range(rounds):
        for name in list(best):
            began = time.perf_counter()
            ways[name]()
            best[name] = min(best[name], time.perf_counter() - began) if k else float("inf")
        best = {name: s for name, s in best.items() if k < 2 or s < 3 * min(best.values())}
    return min(best, key=best.get)
