"""The device, the precision and the name of the machine."""
import platform
import re
import subprocess
from pathlib import Path

import torch

from runs.options import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_device(wanted):
    """"auto", "cpu", "cuda" or "cuda:K" -> a torch device; auto is a CUDA GPU if there is one.

    For a GPU, makes cuDNN deterministic, without TF32. Raises UserError if it does not exist."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:K, not {wanted!r}")
    if wanted == "cpu" or wanted == "auto" and not n_gpus:
        return "cpu"
    device = "cuda" if wanted == "auto" else wanted
    if int(device.partition(":")[2] or 0) >= n_gpus:
        raise UserError(f"--device {device}: this machine has {n_gpus} CUDA GPUs; use --device cpu")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    return device


def choose_precision(wanted, device):
    """"auto", "fp32" or "bf16" -> "fp32" or "bf16". auto is bf16 where the hardware multiplies it:
    NVIDIA GPUs from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if wanted != "auto":
        return wanted
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


def machine_name(device):
    """The name of the GPU or processor."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.check_output(command, text=True).strip()
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
        return next(names).strip()
    except (OSError, subprocess.SubprocessError, StopIteration):
        return platform.processor() or platform.machine()
