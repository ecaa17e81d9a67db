"""Everything in the README that a run shows, made anew: python report/showcase.py

Trains on the drawn faces with the default options, evaluates, runs the three experiments, draws docs/ and
writes the tables between the README's markers, with the time that each command took and the machine. Commands
whose results are there already are not run again, so that an interrupted showcase goes on where it was.

    python report/showcase.py                     into output/showcase; about 40 minutes on two cores
    python report/showcase.py --without-experiments      about ten minutes; their tables stay as they are
"""
import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
sys.path.insert(0, str(ROOT))

from runs.files import read_json, write_atomic, write_json  # noqa: E402
from runs.options import UserError, exit_status  # noqa: E402
from runs.tables import replace_between  # noqa: E402  the program lies one folder up

# the command as a user types it, and the file in the run folder that shows it has ended
TRAIN = ("python abp.py", "metrics.md")
EVALUATE = ("python evaluate.py output/001", "evaluation/macros.tex")
HALF = "--n_epochs 120"     # of the default epochs, for the experiments, which train 15 times
EXPERIMENTS = {f"--folds 4 {HALF}": "holdout_summary.csv", f"--experiment occlusion {HALF}": "occlusion.csv",
               f"--experiment warm-cold {HALF}": "warm_cold_cold.csv"}
PICTURES = {                # name in docs/: (file in the run folder, widest, in pixels)
    "panel.jpg": ("warm/interp.png", 1100),
    "warm_cold.jpg": ("warm_cold_interp.png", 1600),
    "recon.jpg": ("warm/recon.png", 1100),
    "loss.png": ("warm_cold_loss.png", 700),
    "posterior.jpg": ("evaluation/warm/posterior_maps.png", 1100),
    "plane.png": ("evaluation/warm/latent_plane.png", 1100),
    "occlusion.jpg": ("evaluation/occlusion_pepper_0.9.png", 1100),
}
MOVIES = {"walk.webp": (128, 2), "training.webp": (288, 1)}      # widest; one frame in so many
WINDOW = (1280, 800)        # of the explorer's picture


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "output" / "showcase",
                        help="the run folder, made if missing (default: output/showcase)")
    parser.add_argument("--without-experiments", action="store_true", help="train and evaluate only")
    options = parser.parse_args(argv)
    return exit_status("showcase.py", lambda: showcase(options.run, not options.without_experiments))


def showcase(run, experiments):
    """Make what is missing in a run folder, then docs/ and the README's tables."""
    compute(run, *TRAIN, "abp.py", "--out", run)
    compute(run, *EVALUATE, "evaluate.py", run)
    if experiments:
        for flags, file in EXPERIMENTS.items():
            compute(run, f"{EVALUATE[0]} {flags}", f"evaluation/{file}", "evaluate.py", run, *flags.split())
    draw(run)
    text = README.read_text(encoding="utf-8")
    for name, table in tables(run).items():
        text = replace_between(text, name, table, README)
    write_atomic(README, text)
    print(f"{README.name} and {DOCS.name}/ are as {run} shows")


def compute(run, command, file, *arguments):
    """Run a program of the project unless it has left its last file; keep how long it took."""
    if (run / file).is_file():
        return
    print(f"== {command}", flush=True)
    began = time.perf_counter()
    inside = os.path.relpath(run.resolve(), ROOT)        # as short as a user would type it
    status = subprocess.run([sys.executable, *(inside if word is run else word for word in arguments)],
                            cwd=ROOT).returncode
    if status:
        raise UserError(f"{command}: failed ({status}); mend what it says and run this again")
    write_json(run / "showcase.json", times(run) | {command: time.perf_counter() - began})


def times(run):
    """{command: seconds} of what this program ran."""
    path = run / "showcase.json"
    return read_json(path) if path.is_file() else {}


# ---- pictures

def draw(run):
    """docs/: the run's pictures, no wider than they are shown, and the explorer as a browser shows it."""
    DOCS.mkdir(exist_ok=True)
    for name, (file, widest) in PICTURES.items():
        if (run / file).is_file():
            shrink(run / file, DOCS / name, widest)
    for name, (widest, every) in MOVIES.items():
        shrink_movie(run / "warm" / name, DOCS / name, widest, every)
    photograph(run / "warm" / "explorer.html", DOCS / "explorer.jpg")


def shrink(source, target, widest):
    with Image.open(source) as picture:
        picture = picture.convert("RGB")
    if picture.width > widest:
        picture = picture.resize((widest, round(picture.height * widest / picture.width)),
                                 Image.Resampling.LANCZOS)
    if target.suffix == ".png":
        picture.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    else:
        picture.save(target, quality=85, optimize=True)


def shrink_movie(source, target, widest, every):
    """An animated WebP with one frame in `every`, each shown so much longer, no wider than `widest`."""
    frames, durations = [], []
    with Image.open(source) as movie:
        for k in range(movie.n_frames):
            movie.seek(k)
            movie.load()                                 # what knows the duration of this frame
            if k % every == 0:
                height = round(movie.height * min(1, widest / movie.width))
                frames.append(movie.convert("RGB").resize((min(widest, movie.width), height),
                                                          Image.Resampling.LANCZOS))
                durations.append(0)
            durations[-1] += movie.info["duration"]
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=60,
                   method=4)


def photograph(page, target):
    """A page as Chromium shows it; without Chromium the picture stays as it is, and a line says so."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print(f"{target}: not made anew, there is no Chromium; install it (apt-get install chromium)")
        return
    shot = target.with_suffix(".png")
    sandbox = ["--no-sandbox"] if os.name == "posix" and os.getuid() == 0 else []
    subprocess.run([browser, "--headless", *sandbox, "--hide-scrollbars", "--virtual-time-budget=3000",
                    f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--screenshot={shot}",
                    page.resolve().as_uri()],
                   check=True, capture_output=True, timeout=120)
    shrink(shot, target, WINDOW[0])
    shot.unlink()


# ---- tables

def tables(run):
    """{name of the README's marker: Markdown} of everything that the run folder holds."""
    found = {"results": results(run), "likelihood": likelihood(run), "times": commands(run)}
    for name, file, make in (("holdout", "holdout_summary.csv", holdout),
                             ("occlusion", "occlusion.csv", occlusion),
                             ("warm-cold", "warm_cold_cold.csv", warm_cold)):
        if (run / "evaluation" / file).is_file():
            found[name] = make(run / "evaluation")
    return found


def markdown(titles, rows):
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def results(run):
    metrics = {start: read_json(run / start / "metrics.json") for start in ("warm", "cold")}
    summary = {row["quantity"]: row for row in read(run / "evaluation" / "summary.csv")}

    def row(title, text):
        return [title, *(text(start) for start in metrics)]

    def ml(start):
        bits = float(summary["bits per dimension at ML σ"][f"{start} start"])
        return f"{float(summary['log p at ML σ, mean [nats]'][f'{start} start']):,.0f} / {bits:.2f}"

    return markdown(["", "warm start", "cold start"], [
        row("PSNR of the reconstructions", lambda s: f"{metrics[s]['psnr']:.1f} dB"),
        row("random samples: PSNR to the nearest training image, mean / 10th percentile",
            lambda s: " / ".join(f"{metrics[s][key]:.1f}" for key in (
                "sample_nearest_psnr", "sample_nearest_psnr_p10")) + " dB"),
        row("mean of z² (1 on the prior)", lambda s: f"{metrics[s]['z_mean_square']:.2f}"),
        row("log p of an image at the ML sigma [nats] / bits per dimension", ml),
        row("training", lambda s: f"{metrics[s]['seconds']:.0f} s")])


def likelihood(run):
    rows = [row for row in read(run / "evaluation" / "linear.csv") if row["d"] in ("2", "16")]
    return markdown(["", "d", "PSNR", "log p at the ML sigma", "bits per dimension"], [
        [row["model"], row["d"], f"{float(row['train_psnr']):.1f} dB", f"{float(row['train_log_p']):,.0f}",
         f"{float(row['train_bits']):.2f}"] for row in rows])


def holdout(folder):
    rows = [row for row in read(folder / "holdout_summary.csv") if row["d"] in ("2", "")]
    return markdown(["model", "d", "training PSNR", "held-out PSNR", "held-out log p"], [
        [row["model"], row["d"], *(f"{float(row[key]):.1f} dB" if row[key] else "–"
                                   for key in ("train_psnr", "heldout_psnr")),
         f"{float(row['heldout_log_p']):,.0f}" if row["heldout_log_p"] else "–"] for row in rows])


def occlusion(folder):
    return markdown(["hidden", "share", "ABP", "nearest visible pixel", "mean image"], [
        [f"`{row['mask']}`", f"{float(row['hidden']):.0f} %", *(f"{float(row[key]):.1f}" for key in (
            "mae", "mae_nearest", "mae_mean"))] for row in read(folder / "occlusion.csv")])


def warm_cold(folder):
    keys = {"psnr": "PSNR [dB]", "sample_nearest_psnr": "samples: PSNR to the nearest [dB]",
            "z_mean_square": "mean z²"}
    lines = []
    for start in ("warm", "cold"):
        mean, std = read(folder / f"warm_cold_{start}.csv")
        lines.append([f"{start} start", *(f"{float(mean[key]):.2f} ± {float(std[key]):.2f}" for key in keys),
                      f"{float(mean['passes']):,.0f}"])
    return markdown(["", *keys.values(), "network passes per image"], lines)


def commands(run):
    record = read_json(run / "config.json")
    lines = [[f"`{command}`", f"{seconds / 60:.1f} min"] for command, seconds in times(run).items()]
    return markdown(["command", "time"], lines) + (
        f"\n24 drawn faces, 128 x 128, seed 1, on {record['machine']}, {record['threads']} threads, "
        f"{record['precision']}.\n")


if __name__ == "__main__":
    sys.exit(main())
