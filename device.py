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
