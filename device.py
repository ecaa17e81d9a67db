"""Where to compute, and which of several ways is the fastest there."""
import time

import torch

from options import UserError


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
