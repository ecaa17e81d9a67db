"""What checks gave, kept as JSON and shown as tables, between the markers of zoo/README.md."""
import math
import re
import time
from pathlib import Path

import torch

from runs.files import read_json, set_seed, write_atomic, write_json
from runs.options import UserError
from runs.tables import markdown, replace_between
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
                      _merged([check.source for check in checks])])
    words = [True, False, False, True, True, True]
    return markdown(["check", "value", "bound", "control, which must miss", "holds", "source"], lines, words)


def _merged(sources):
    """One text for several seeds: where only numbers differ they stand side by side, '.6, .7'."""
    parts = [re.split(r"(-?\d*\.?\d+)", source) for source in sources]
    if any(part[::2] != parts[0][::2] for part in parts):                        # the words between numbers
        return " / ".join(dict.fromkeys(sources))
    return "".join(", ".join(dict.fromkeys(same)) if k % 2 else same[0]
                   for k, same in enumerate(zip(*parts, strict=True)))


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

def _failures(records):
    """What missed its bounds, and controls that did not: a line each."""
    lines = []
    for record in records:
        for run in record["runs"]:
            for check in map(_check, run["checks"]):
                held = [f'; its control "{name}" holds' for name, value in check.controls.items()
                        if check.within(value)]
                if not check.ok:
                    lines.append(f"- {record['model']} {record['action']}, seed {run['seed']}: {check.name}: "
                                 f"{_text(check.value)}, bound {_bound(check)}{''.join(held)}")
    return "\n".join(lines) or "Nothing."


def _animals(out):
    """The sheet, if it is of the images of this repository, its table and what they mean."""
    record = read_json(out / "animals.json")
    name, picture = Path(record["data"]).name, ""
    if record["data"] == "data/drawn":
        write_atomic(README.with_name("animals.png"), (out / "animals.png").read_bytes())
        name, picture = record["data"], "![A row of animals for each model](animals.png)\n\n"
    table = (out / "animals.md").read_text(encoding="utf-8")
    return f"The images of {name}.\n\n{picture}{record['findings']}\n\n{table}\n{record['note']}"


def write_readme(out):
    """zoo/README.md, between its markers, from the records in the folder `out`; the rest stays as it is.

    Raises UserError if there is no record, a broken one, or a marker is missing.
    """
    records = [read_json(path) for name in MODELS for action in ACTIONS
               if (path := Path(out) / f"{name}_{action}.json").is_file()]
    if not records:
        raise UserError(f"{out}: holds no record; run python -m zoo all exact first")
    page = README.read_text(encoding="utf-8")
    try:
        threads = f"On {records[0]['threads']} thread(s) of a server CPU that did other work besides.\n\n"
        tables = [f"### {heading(record)}\n\n{table(record)}" for record in records]
        parts = {"failures": _failures(records), "measured": threads + "\n".join(tables)}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{out}: holds a record that is broken ({error}); measure anew") from None
    if Path(out, "animals.json").is_file():
        try:
            parts["animals"] = _animals(Path(out))
        except (KeyError, TypeError, OSError) as error:
            raise UserError(f"{out}: holds a broken sheet ({error}); run python -m zoo all animals") from None
    for name, part in parts.items():
        page = replace_between(page, name, part, README)
    write_atomic(README, page)
    return README
