"""What a trained generator is worth, exactly: python evaluate.py output/001

Writes output/001/evaluation/: a folder for each start (warm, cold) with figures (PNG and PDF) and tables
(CSV, Markdown, LaTeX), and summary.* with the starts side by side.

    python evaluate.py output/001                          likelihood, posteriors, chains, plane, baselines
    python evaluate.py output/001 --folds 4                trains on three quarters, tests on the rest
    python evaluate.py output/001 --experiment occlusion   learns from images with hidden pixels
    python evaluate.py output/001 --experiment warm-cold   several seeds of both, equal network passes
"""
import dataclasses
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from abp import DTYPES, data_folder, load_run
from evaluation import factors, holdout, likelihood, linear, occlusion, pictures, warm_cold
from evaluation.start import QUANTITIES, Start
from inference.masks import make_mask
from runs import manuscript, recorder
from runs.files import load_checkpoint, read_json
from runs.options import UserError, check, exit_status, option, parse_args
from runs.tables import write_tables
from utils import load_img_tensors

STARTS = ("warm", "cold")


@dataclass(frozen=True)
class EvaluateConfig:
    run: str = option("", "the run folder, such as output/001; its flag may be left out")
    data: str = option("", "the folder of the run's images, if it is no longer where it was")
    experiment: str = option("none", "an experiment that trains anew with the run's options",
                             choices=("none", "occlusion", "warm-cold"))
    folds: int = option(0, "leave-k-out: parts into which the images are split, each held out once; 0: none",
                        0, 1000)
    seeds: int = option(3, "seeds of the experiment warm-cold", 1, 100)
    n_epochs: int = option(0, "epochs of what is trained anew; 0: as many as the run", 0, 10**6)
    n_steps: int = option(60, "steps of each chain after the steps of adaptation, half as many", 20, 10**5)
    n_shown: int = option(4, "images whose posteriors are drawn", 1, 24)

    def __post_init__(self):
        check(self)
        if not self.run:
            raise UserError("no run was named; python evaluate.py output/001")
        if self.folds == 1:
            raise UserError("--folds must be at least 2, or 0 for none")


def open_run(options):
    """A finished run: (folder, record, images, names, {start: (config, net, z)}).

    Raises UserError if the folder is missing, no run, unfinished or damaged, of another version of the
    program, or if its images are not there or have changed.
    """
    folder = Path(options.run)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a run such as output/001")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: is no run folder (it has no config.json); name one such as output/001")
    record = read_json(folder / "config.json")
    starts = {}
    for start in STARTS:
        if (folder / start / "checkpoint.pt").is_file():
            starts[start] = load_run(folder / start)
            epoch = load_checkpoint(folder / start / "checkpoint.pt")["epoch"]
            if epoch < starts[start][0].n_epochs:
                raise UserError(f"{folder / start}: is unfinished, {epoch} of {starts[start][0].n_epochs} "
                                f"epochs; go on with python abp.py --resume {folder}")
    if not starts:
        raise UserError(f"{folder}: holds no trained start; go on with python abp.py --resume {folder}")
    config = next(iter(starts.values()))[0]
    missing = [start for start in config.starts if start not in starts]
    if missing:
        raise UserError(f"{folder / missing[0]}: is missing; go on with python abp.py --resume {folder}")
    data = Path(options.data) if options.data else data_folder(config)
    try:
        recorder.same_images(record, config, data)
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: is no record of this program ({error}); "
                        "train anew") from None
    images, names = load_img_tensors(data, config.img_size)
    return folder, record, data, images, names, starts


def evaluate(options):
    """All that `python evaluate.py RUN` writes. Returns the folder."""
    folder, record, data, images, names, starts = open_run(options)
    out = folder / "evaluation"
    out.mkdir(exist_ok=True)
    config = next(iter(starts.values()))[0]
    arithmetic = ("cpu", record["precision"] if record["device"] == "cpu" else "fp32")
    fresh = {"n_epochs": options.n_epochs} if options.n_epochs else {}
    retrained = dataclasses.replace(config, **fresh)
    if options.experiment == "occlusion":
        occlusion.run(retrained, images, names, out, *arithmetic)
    elif options.experiment == "warm-cold":
        seeds = range(config.seed, config.seed + options.seeds)
        warm_cold.run(retrained, images, names, out, *arithmetic, seeds)
    elif options.folds:
        holdout.run(retrained, images, names, out, *arithmetic, options.folds)
    else:
        describe(options, out, data, images, names, starts, DTYPES[arithmetic[1]])
    return out


def describe(options, out, data, images, names, starts, search):
    """Everything that needs no training, each start and then the starts side by side."""
    done, likelihoods = {}, {}
    for start, (config, net, z) in starts.items():
        (out / start).mkdir(exist_ok=True)
        mask = make_mask(config.mask, len(images), config.img_size, config.seed)
        one = Start(config, net, z, images, names, out / start, search, mask, options.n_steps,
                    options.n_shown)
        parts = [one.reconstruction, one.samples]
        if config.nz == 2:
            parts += [one.plane, one.likelihood, one.chains]
        else:
            print(f"nz is {config.nz}: likelihood, posterior maps and the latent plane need nz = 2 and were "
                  "left out")
        for part in parts:
            began = time.perf_counter()
            part()
            print(f"{start}: {part.__name__}, {time.perf_counter() - began:.0f} s", flush=True)
        done[start] = one
        if config.nz == 2:
            likelihoods[start] = one.found
    summaries = {start: one.summary for start, one in done.items()}
    write_summary(out, summaries)
    if likelihoods:
        pictures.plot_evidence({start: found.rows for start, found in likelihoods.items()}, out)
    write_linear(out, images, starts, summaries, likelihoods)
    write_factors(out, data, names, starts)
    manuscript.write_evaluation(out, starts, config.n_epochs)


def write_summary(out, summaries):
    """summary.*: quantities in rows, starts in columns."""
    keys = dict.fromkeys(key for summary in summaries.values() for key in summary)
    rows = [{"quantity": QUANTITIES[key][0]}
            | {f"{start} start": summary.get(key) for start, summary in summaries.items()} for key in keys]
    write_tables(out, "summary", rows, row_forms=[QUANTITIES[key][1] for key in keys])


def write_linear(out, images, starts, summaries, likelihoods):
    """linear.*: the linear models that ABP generalises, and ABP beside them. Returns the rows."""
    rows = []
    for start, summary in summaries.items():
        config, found = starts[start][0], likelihoods.get(start)
        row = dict.fromkeys(linear.HEADS) | {
            "model": f"ABP, {start} start", "d": config.nz, "train_psnr": summary["psnr"],
            "train_mse": summary["mse"]}
        if found:
            mean = likelihood.mean_row(found.rows)
            row |= {"train_log_p": mean["log_p_ml"], "train_bits": mean["bits_ml"], "sigma": found.sigma_ml}
        rows.append(row)
    rows += linear.rows(images)
    write_tables(out, "linear", rows, linear.HEADS, linear.FORMS)
    return rows


def write_factors(out, data, names, starts):
    """factors.* of images whose factors are known: how well each is read off z. Returns whether they are."""
    known = factors.read(data, names)
    if known is None:
        return False
    table = []
    for start, (config, _, z) in starts.items():
        table += [{"start": start} | row for row in factors.rows(z, known)]
        paths = [out / start / f"factors.{kind}" for kind in ("png", "pdf")]
        factors.draw(z, known, config.prior_sigma, paths)
    write_tables(out, "factors", table, factors.HEADS, factors.FORMS)
    return True


def main(argv=None):
    """Run the command line -> exit status: 0, 2 after an error (one line on stderr), 130 if stopped."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)   # torch's own
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--run")

    def action():
        options, _ = parse_args(EvaluateConfig, argv, __doc__, "evaluate.py")
        print(f"{evaluate(options)}: written")

    return exit_status("evaluate.py", action)


if __name__ == "__main__":
    sys.exit(main())
