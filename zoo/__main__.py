"""The zoo of other generative models, held to their bars.

    python -m zoo NAME exact                       closed forms, seconds
    python -m zoo NAME bench --seeds 3             trained where the truth is known, minutes
    python -m zoo NAME animals --data FOLDER       a row of animals by the model, and what they are worth
    python -m zoo all exact                        every model in turn; likewise bench and animals
    python -m zoo readme                           zoo/README.md from what was measured

Exits with 0 if all checks hold, with 1 if one fails, with 2 after an error that a user can mend.
"""
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from abp import data_folder
from runs.options import Interrupted, UserError, check, exit_status, option, parse_args
from zoo import records
from zoo.core import MODELS, home

ACTIONS = (*records.ACTIONS, "animals")


@dataclass(frozen=True)
class ZooConfig:
    name: str = option("", "the model; its flag may be left out", choices=("all", "readme", *MODELS))
    action: str = option("exact", "what to do; its flag may be left out", choices=ACTIONS)
    seeds: int = option(1, "how many seeds bench runs, from 0", 1, 100)
    data: str = option("data/drawn", "folder of images for animals")
    out: str = option("output/zoo", "folder for records, tables and the sheet")
    reuse: bool = option(False, "animals: take what --out has of these images; train only what is missing")

    def __post_init__(self):
        if not self.name:
            raise UserError(f"no model was named; one of all, readme, {', '.join(MODELS)}")
        check(self)


def run(config):
    """Do what the command line says -> whether all checks hold."""
    if config.name == "readme":
        print(f"{records.write_readme(config.out)}: written")
        return True
    names = MODELS if config.name == "all" else (config.name,)
    able = [model for name in names if (model := home(name, config.action))]
    if not able:
        has = [action for action in ACTIONS if home(config.name, action)]
        raise UserError(f"{config.name} has no {config.action}; it has {' and '.join(has)}")
    if config.action == "animals":
        from zoo import sheet  # matplotlib and the rest are not needed for checks

        stem = "animals" if config.name == "all" else f"{config.name}_animals"
        sheet.make(able, data_folder(config), config.out, stem, reuse=config.reuse)
        print(Path(config.out, f"{stem}.md").read_text(encoding="utf-8"))
        return True
    return all([_measure(model, config) for model in able])


def _measure(model, config):
    seeds = range(config.seeds if config.action == "bench" else 1)
    record = records.measure(model, config.action, seeds, config.out)
    print(f"{records.heading(record)}\n\n{records.table(record)}", flush=True)
    return records.passed(record)


def main(argv=None):
    """Run the command line -> exit status: 0, 1 if a check fails, 2 after an error, 130 if stopped."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)   # torch's own
    argv = list(sys.argv[1:] if argv is None else argv)
    for k, flag in enumerate(("--name", "--action")):
        if len(argv) > 2 * k and not argv[2 * k].startswith("-"):
            argv.insert(2 * k, flag)
    holds = []

    def action():
        try:
            holds.append(run(parse_args(ZooConfig, argv, __doc__, "-m zoo")[0]))
        except KeyboardInterrupt:
            raise Interrupted("stopped; what had finished is kept") from None

    return exit_status("python -m zoo", action) or int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())
