"""Where to compute, and which of several ways is the fastest there."""
import time

import torch

from options import UserError


def choose_device(wanted):
    """"auto", "cpu", "cuda" or "mps" -> the device to use; auto takes a CUDA GPU if there is one.

    Raises UserError if this machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return "cuda" if available["cuda"] else "cpu"
    if not available[wanted]:
        raise UserError(f"--device {wanted}: this machine has none; use --device cpu")
    return wanted


def fastest(ways, rounds=4):
    """The name of the way that ran fastest in its best round: {name: function without arguments} -> name.

    They take turns, so that a busy machine slows all alike; the first round only warms up. Each function must
    return after its work is done, on a GPU too.
    """
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return min(ways, key=lambda name: min(seconds[name][1:]))
