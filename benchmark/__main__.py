"""Speed, exactness and scaling on your machine: python -m benchmark [--parts speed,scaling]

    speed      Langevin and learning steps, against the loop of public solutions
    training   passes and seconds to a PSNR for each sampler
    exactness  moments of chains at a trained generator, against quadrature
    scaling    seconds and memory with the number and the size of the images

Cases of a part take turns: compare within one run. A pass is one image through the network:
forward, backward to its latent, or backward to the weights.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from abp import ABP, Config
from benchmark import exactness, scaling, speed
from runs.device import choose_device, choose_precision, machine_name
from runs.files import data_folder
from runs.options import UserError, check, option, run_program
from runs.tables import write_tables
from utils import load_img_tensors

PARTS = ("speed", "training", "exactness", "scaling")


@dataclass(frozen=True)
class Options:
    parts: str = option(",".join(PARTS), "parts to measure, separated by commas")
    data: str = option("", "folder of images; none: the drawn faces in data/drawn")
    img_size: int = option(Config.img_size, "side of the images in pixels", 16, 512)
    n_epochs: int = option(Config.n_epochs, "epochs in training and exactness", 2, 10**5)
    device: str = option("auto", "where to compute: auto, cpu, cuda or cuda:K")
    out: str = option("output/benchmark", "folder for the tables: CSV, Markdown, LaTeX")

    def __post_init__(self):
        check(self)
        if not set(self.parts.split(",")) <= set(PARTS):
            raise UserError(f"--parts must be some of {','.join(PARTS)}, not {self.parts!r}")


def measure(options, given=frozenset()):
    """Measure the parts in the order of PARTS, print each table and write it to options.out."""
    images = load_img_tensors(data_folder(options), options.img_size)[0]
    device = choose_device(options.device)
    machine = device, choose_precision("auto", device)
    print(f"{len(images)} images of {options.img_size} px; {machine_name(device)}, "
          f"{torch.get_num_threads()} threads, {machine[1]}, torch {torch.__version__}")
    parts, model, folder = options.parts.split(","), None, Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    if "speed" in parts:
        report(folder, "speed", speed.steps(images, *machine))
    if "training" in parts:
        rows, model = speed.training(images, *machine, options.n_epochs)
        report(folder, "training", rows)
    if "exactness" in parts:
        if model is None:
            model = ABP(Config(img_size=options.img_size, n_epochs=options.n_epochs), images,
                        "warm", *machine)
            list(model)
        report(folder, "exactness", exactness.compare(model))
    if "scaling" in parts:
        report(folder, "scaling", scaling.measure(*machine))


def report(folder, name, rows):
    write_tables(folder, name, rows)
    print(f"\n{name}\n\n{(folder / f'{name}.md').read_text(encoding='utf-8')}", flush=True)


def main(argv=None):
    """Run the command line -> exit status."""
    return run_program("python -m benchmark", __doc__, {"": (Options, measure)}, argv)


if __name__ == "__main__":
    sys.exit(main())
