"""Make the tables and pictures of README.md and docs/: python -m report.showcase

Train with the default options and with --preset handout, evaluate, run the three experiments, then
write tables between the markers of the pages and pictures into docs/. A command with results in the
run folder is not run again.
"""
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from runs.files import ROOT, read_json, write_atomic, write_json
from runs.options import UserError, option, run_program
from runs.tables import markdown, replace_between

DOCS = ROOT / "docs"
TABLES = {"likelihood": "linear.md", "holdout": "holdout_summary.md",       # marker: file
          "occlusion": "occlusion.md", "warm-cold": "warm_cold_seeds.md"}
PAGES = {"results": ROOT / "README.md", "times": DOCS / "runs.md"} | dict.fromkeys(
    TABLES, DOCS / "evaluation.md")
COMMANDS = {                # command: the last file that it writes in the folder RUN
    "python abp.py --out RUN": "metrics.md",
    "python abp.py --preset handout --out RUN/handout": "handout/metrics.md",
    "python -m evaluation RUN": "evaluation/macros.tex",
    "python -m evaluation holdout RUN --n_epochs 120": "evaluation/holdout.png",
    "python -m evaluation occlusion RUN --n_epochs 120": "evaluation/occlusion.csv",
    "python -m evaluation warm_cold RUN --n_epochs 120": "evaluation/warm_cold.pdf",
}
PICTURES = {                # name in docs/: (file in the run folder, largest width in pixels)
    "panel.jpg": ("warm/interp.png", 1100),
    "warm_cold.jpg": ("warm_cold_interp.png", 1600),
    "recon.jpg": ("warm/recon.png", 1100),
    "loss.png": ("warm_cold_loss.png", 700),
    "posterior.jpg": ("evaluation/warm/posterior_maps.png", 1100),
    "plane.png": ("evaluation/warm/latent_plane.png", 1100),
    "occlusion.jpg": ("evaluation/occlusion_pepper_0.9.png", 1100),
}


@dataclass(frozen=True)
class ShowcaseConfig:
    run: str = option(str(ROOT / "output" / "showcase"), "run folder", positional=True)


def showcase(config, given):
    """Run what has no results yet, then write the pictures and tables."""
    run = Path(config.run)
    for command, file in COMMANDS.items():
        compute(run, command, file)
    for name, (file, width) in PICTURES.items():
        shrink(run / file, DOCS / name, width)
    for name, table in tables(run).items():
        page = PAGES[name].read_text(encoding="utf-8")
        write_atomic(PAGES[name], replace_between(page, name, table, PAGES[name]))


def compute(run, command, file):
    """Run a command unless its last file exists; keep its time in showcase.json."""
    if (run / file).is_file():
        return
    print(f"== {command}, RUN = {run}", flush=True)
    words = [word.replace("RUN", str(run.resolve())) for word in command.split()[1:]]
    began = time.perf_counter()
    if status := subprocess.run([sys.executable, *words], cwd=ROOT).returncode:
        raise UserError(f"{command}: failed ({status}); correct the error and run this again")
    write_json(run / "showcase.json", times(run) | {command: time.perf_counter() - began})


def times(run):
    """{command: seconds} of the commands that were run."""
    return read_json(run / "showcase.json") if (run / "showcase.json").is_file() else {}


def shrink(source, target, width):
    with Image.open(source) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    if target.suffix == ".png":
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    picture.save(target, quality=85, optimize=True)


def tables(run):
    """{marker: Markdown table} of the results in the run folder."""
    return {"results": results(run), "times": commands(run)} | {
        name: (run / "evaluation" / file).read_text("utf-8") for name, file in TABLES.items()}


def results(run):
    """The metrics of both starts, with the default options and with --preset handout."""
    lines = []
    for name, folder in (("default", run), ("`--preset handout`", run / "handout")):
        for start in ("warm", "cold"):
            m = read_json(folder / start / "metrics.json")
            lines.append([f"{name}, {start} start", f"{m['psnr']:.1f}",
                          f"{m['sample_nearest_psnr']:.1f}", f"{m['sample_nearest_psnr_p10']:.1f}",
                          f"{m['z_mean_square']:.2f}", f"{m['seconds']:.0f} s"])
    return markdown(["", "PSNR [dB]", "samples: PSNR to the nearest training image [dB]",
                     "its 10th percentile [dB]", "mean of z²", "training"], lines)


def commands(run):
    """The time of each command and the machine."""
    lines = [[f"`{command}`", f"{seconds / 60:.1f} min"] for command, seconds in times(run).items()]
    machine = "{machine}, {threads} threads, {precision}".format(**read_json(run / "config.json"))
    return markdown(["command", "time"], lines) + (
        f"\n24 drawn faces, 128 x 128, seed 1, on {machine}; RUN is the run folder.\n")


if __name__ == "__main__":
    sys.exit(run_program("python -m report.showcase", __doc__, {"": (ShowcaseConfig, showcase)}))
