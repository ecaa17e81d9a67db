"""Evaluate a trained generator: python -m evaluation [RUN]

Writes RUN/evaluation/: a folder for each start (warm, cold) with figures (PNG and PDF) and tables
(CSV, Markdown, LaTeX), and summary.* with the starts side by side. RUN is a run folder such as
output/001; by default the newest finished one in output/.

    python -m evaluation [output/001]           likelihood, posteriors, chains, plane, baselines
    python -m evaluation holdout output/001     train without some images, test on them
    python -m evaluation occlusion output/001   train on images with hidden pixels
    python -m evaluation warm_cold output/001   several seeds of both starts, equal network passes
"""
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from abp import load_run
from evaluation import factors, holdout, linear, occlusion, warm_cold
from evaluation.start import QUANTITIES, Start
from inference.masks import fingerprint, make_mask
from runs import manuscript, recorder
from runs.device import DTYPES, choose_device
from runs.files import data_folder, read_json
from runs.manuscript import HIDDEN_METRICS, METRICS
from runs.options import UserError, check, option, run_program
from runs.tables import write_tables
from utils import load_img_tensors

STARTS = ("warm", "cold")


@dataclass(frozen=True)
class RunConfig:
    """Options of every command."""
    run: str = option("", "run folder, such as output/001; none: the newest finished in output/",
                      positional=True)
    data: str = option("", "folder of the run's images, if it was moved")
    device: str = option("auto", "where to compute: cpu, cuda, cuda:K, or auto for a GPU if any")

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class EvaluateConfig(RunConfig):
    n_steps: int = option(60, "steps of each chain, after half as many of adaptation", 20, 10**5)
    n_shown: int = option(4, "images with posterior maps and chains of every sampler", 1, 24)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    n_epochs: int = option(0, "epochs of each training; 0: those of the run", 0, 10**6)


@dataclass(frozen=True)
class HoldoutConfig(TrainConfig):
    folds: int = option(4, "parts of the images; each is held out once", 2, 1000)


@dataclass(frozen=True)
class WarmColdConfig(TrainConfig):
    seeds: int = option(3, "number of seeds of each start, from the run's seed on", 1, 100)


def newest_run(parent):
    """The run folder in `parent` that finished last. Raises UserError if there is none."""
    finished = list(Path(parent).glob("*/metrics.md"))                      # the last file of a run
    if not finished:
        raise UserError(f"{parent}: holds no finished run; run python abp.py, or name RUN")
    newest = max(finished, key=lambda path: (path.stat().st_mtime, path)).parent
    print(f"{newest}: the newest finished run")
    return newest


class OpenRun:
    """A finished run: its images and trained starts, networks on the chosen device.

    Raises UserError if the folder is no run, unfinished, damaged or of another version, or if its
    images have changed.
    """

    def __init__(self, options):
        self.device = choose_device(options.device)
        self.folder = folder = Path(options.run) if options.run else newest_run(recorder.OUTPUT)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: is no run folder; name one such as output/001")
        record, resume = read_json(folder / "config.json"), f"python abp.py --resume {folder}"
        self.starts = {start: load_run(folder / start) for start in STARTS
                       if (folder / start / "checkpoint.pt").is_file()}
        if not self.starts:
            raise UserError(f"{folder}: holds no trained start; continue with {resume}")
        self.config, self.metrics = next(iter(self.starts.values()))[0], {}
        for start in self.config.starts:
            path = folder / start / "metrics.json"                      # the last file of a start
            self.metrics[start] = read_json(path) if path.is_file() else {}
            if self.metrics[start].get("epochs", 0) < self.config.n_epochs:
                raise UserError(f"{folder / start}: is unfinished; continue with {resume}")
        self.data = Path(options.data) if options.data else data_folder(self.config)
        self.images, self.names = load_img_tensors(self.data, self.config.img_size)
        self.mask = make_mask(self.config.mask, len(self.images), self.config.img_size,
                              self.config.seed)
        recorder.check_images(record, self.data, fingerprint(self.mask))
        for _, net, _ in self.starts.values():
            net.to(self.device)
        same = record["device"].partition(":")[0] == self.device.partition(":")[0]
        self.precision = record["precision"] if same else "fp32"
        self.out = folder / "evaluation"
        self.out.mkdir(exist_ok=True)


def train_anew(experiment, *names):
    """A command that runs `experiment` with the run's config and the command's options `names`."""
    def command(options, given):
        run = OpenRun(options)
        config = dataclasses.replace(run.config, n_epochs=options.n_epochs or run.config.n_epochs)
        experiment(config, run.images, run.names, run.out, run.device, run.precision,
                   *(getattr(options, name) for name in names))
        print(f"{run.out}: written")

    return command


def evaluate(options, given):
    """Evaluate each start, then write the tables of both."""
    run, done = OpenRun(options), {}
    config = run.config
    if run.mask is not None:
        print(f"--mask {config.mask}: MSE, PSNR and log p are of visible pixels; SSIM, PCA and FA, "
              "which need whole images, are left out")
    if config.nz != 2:
        print(f"nz is {config.nz}: likelihood, posteriors and the plane are left out, they need 2")
    for start, (_, net, z) in run.starts.items():
        (run.out / start).mkdir(exist_ok=True)
        one = Start(config, net, z, run.images, run.names, run.out / start, DTYPES[run.precision],
                    run.mask, options.n_steps, options.n_shown)
        parts = [one.reconstruction, one.samples, one.plane, one.likelihood, one.chains]
        for part in parts if config.nz == 2 else parts[:2]:
            began = time.perf_counter()
            part()
            print(f"{start}: {part.__name__}, {time.perf_counter() - began:.0f} s", flush=True)
        done[start] = one
    write_summary(run.out, run.metrics, done)
    write_linear(run, done)
    write_factors(run)
    manuscript.write_evaluation(run.out, done, config.n_epochs)
    print(f"{run.out}: written")


def write_summary(out, metrics, starts):
    """summary.*: quantities in rows, starts in columns; those of metrics.json first."""
    values = {start: metrics[start] | one.summary for start, one in starts.items()}
    known = METRICS | HIDDEN_METRICS | QUANTITIES
    keys = [key for key in known if any(key in row for row in values.values())]
    rows = [{"quantity": known[key][0]}
            | {f"{start} start": row.get(key) for start, row in values.items()} for key in keys]
    write_tables(out, "summary", rows, row_forms=[known[key][1] for key in keys])


def write_linear(run, starts):
    """linear.*: ABP, PCA and FA; with a mask only ABP, since the others need whole images."""
    rows, label = [], "" if run.mask is None else ", visible pixels"
    for start, one in starts.items():
        row = {"model": f"ABP, {start} start{label}", "d": run.config.nz,
               "train_psnr": run.metrics[start]["psnr"]}
        for key, name in (("train_log_p", "log_p_ml"), ("train_bits", "bits_ml"),
                          ("sigma", "ml_sigma")):
            row[key] = one.summary.get(name)
        rows.append(row)
    if run.mask is None:
        rows += linear.rows(run.images)
    rows = [dict.fromkeys(linear.HEADS) | row for row in rows]
    write_tables(run.out, "linear", rows, linear.HEADS, linear.FORMS)


def write_factors(run):
    """factors.*, for images with known factors."""
    if known := factors.read(run.data, run.names):
        table = [{"start": start} | row for start, (_, _, z) in run.starts.items()
                 for row in factors.rows(z, known)]
        write_tables(run.out, "factors", table, factors.HEADS, factors.FORMS)


COMMANDS = {"": (EvaluateConfig, evaluate),
            "holdout": (HoldoutConfig, train_anew(holdout.run, "folds")),
            "occlusion": (TrainConfig, train_anew(occlusion.run)),
            "warm_cold": (WarmColdConfig, train_anew(warm_cold.run, "seeds"))}


def main(argv=None):
    """Run the command line -> exit status: 0; 2 after an error, in one line; 130 if stopped."""
    return run_program("python -m evaluation", __doc__, COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
