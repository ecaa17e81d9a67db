"""What checks gave, kept as JSON and shown as tables; zoo/README.md is made of nothing else."""
import math
import time
from pathlib import Path

import torch

from evaluation.tables import markdown
from options import UserError
from utils import read_json, set_seed, write_atomic, write_json
from zoo.core import MODELS, Check

README = Path(__file__).with_name("README.md")
ACTIONS = ("exact", "bench")


def measure(model, action, seeds, out):
    """Run model.exact() or model.bench(seed) for each seed -> a record, as JSON can hold it.

    out/MODEL_ACTION.json holds the seeds so far after each of them.
    """
    name, runs = model.__name__.split(".")[-1], []
    record = {"model": name, "action": action, "threads": torch.get_num_threads(),
              "torch": torch.__version__, "runs": runs}
    Path(out).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        set_seed(seed)
        began = time.perf_counter()
        checks = model.exact() if action == "exact" else model.bench(seed)
        seconds = time.perf_counter() - began
        runs.append({"seed": seed, "seconds": seconds, "checks": [_plain(check) for check in checks]})
        write_json(Path(out) / f"{name}_{action}.json", record)
    return record


def _plain(check):
    """A check as plain values; JSON knows no infinity, and null stands for a bound that there is not."""
    lo, hi = (None if math.isinf(bound) else bound for bound in (check.lo, check.hi))
    return {"name": check.name, "value": _number(check.value), "lo": lo, "hi": hi, "source": check.source,
            "controls": {name: _number(value) for name, value in check.controls.items()}}


def _number(value):
    return float(value) if math.isfinite(value) else str(float(value))


def _check(plain):
    lo = -math.inf if plain["lo"] is None else plain["lo"]
    hi = math.inf if plain["hi"] is None else plain["hi"]
    controls = {name: float(value) for name, value in plain["controls"].items()}
    return Check(plain["name"], float(plain["value"]), lo, hi, plain["source"], controls)


def passed(record):
    """Whether every check of every seed holds."""
    return all(_check(plain).ok for run in record["runs"] for plain in run["checks"])


# ----------------------------------------------------------------------------------------------------- tables

def table(record):
    """A Markdown table, a row for each check; several seeds stand side by side, and their controls too."""
    lines = []
    for same in zip(*(run["checks"] for run in record["runs"]), strict=True):
        checks = [_check(plain) for plain in same]
        controls = [f"{name}: " + ", ".join(_text(check.controls[name]) for check in checks)
                    for name in checks[0].controls]
        lines.append([checks[0].name, ", ".join(_text(check.value) for check in checks), _bound(checks[0]),
                      "; ".join(controls), "yes" if all(check.ok for check in checks) else "**FAILED**",
                      checks[0].source])
    words = [True, False, False, True, True, True]
    return markdown(["check", "value", "bound", "control, which must miss", "holds", "source"], lines, words)


def _text(value):
    return format(value, ".4g")


def _bound(check):
    if math.isinf(check.lo):
        return f"≤ {check.hi:g}"
    if math.isinf(check.hi):
        return f"≥ {check.lo:g}"
    return f"{check.lo:g}" if check.lo == check.hi else f"{check.lo:g} to {check.hi:g}"


def heading(record):
    """'vae bench: seeds 0, 1, 2; 41, 40, 42 s'."""
    runs = record["runs"]
    seconds = ", ".join(f"{run['seconds']:.1f}" for run in runs) + " s"
    if record["action"] == "exact":
        return f"{record['model']} exact: {seconds}"
    return f"{record['model']} bench: seeds {', '.join(str(run['seed']) for run in runs)}; {seconds}"


# ----------------------------------------------------------------------------------------------------- README

HEAD = """# The zoo

The other generative models of the lectures, a file each, beside the generator that alternating
back-propagation learns. Every number below was measured by the commands

    python -m zoo all exact                 # closed forms, seconds; exits with 1 if a check fails
    python -m zoo all bench --seeds 3       # trained where the truth is known
    python -m zoo all animals --data FOLDER # one sheet of animals, a row for each model, and a table
    python -m zoo readme                    # this page, from what the others left in output/zoo

A check is a value with bounds. A **control** is the same measurement with something broken on purpose, and
must miss the bounds. What fails is shown as failed. Values of several seeds stand side by side. The
measurements took the seconds in their headings, on {threads} thread(s) of a server CPU that did other
work besides.
"""


def _animals(out):
    """The section of the animals; the sheet, too, if it is of the images of this repository."""
    record = read_json(out / "animals.json")
    picture = ""
    if record["data"] == "data/drawn":
        write_atomic(README.with_name("animals.png"), (out / "animals.png").read_bytes())
        picture = "![A row of animals for each model](animals.png)\n\n"
    table = (out / "animals.md").read_text(encoding="utf-8")
    return f"## Animals of {record['data']}\n\n{picture}{table}\n{record['note']}"


def write_readme(out):
    """zoo/README.md from the records in the folder `out`. Raises UserError if there is none."""
    records = [read_json(path) for name in MODELS for action in ACTIONS
               if (path := Path(out) / f"{name}_{action}.json").is_file()]
    if not records:
        raise UserError(f"{out}: holds no record; run python -m zoo all exact first")
    try:
        parts = [HEAD.format(threads=records[0]["threads"])]
        parts += [f"## {heading(record)}\n\n{table(record)}" for record in records]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{out}: holds a record that is broken ({error}); measure anew") from None
    if Path(out, "animals.json").is_file():
        parts.append(_animals(Path(out)))
    write_atomic(README, "\n".join(parts))
    return README
