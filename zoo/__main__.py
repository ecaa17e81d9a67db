"""Train the models of the zoo on the same images: a sheet of samples and a table.

    python -m zoo --data FOLDER              every model: output/zoo/animals.png, animals.md, ...
    python -m zoo NAME --data FOLDER         one model: output/zoo/NAME_animals.png, ...

To add a model, write zoo/NAME.py with a function that trains it, and add a line to MODELS.
"""
import sys
from dataclasses import dataclass

from runs.files import data_folder
from runs.options import Interrupted, check, option, run_program
from zoo import (
    abp,
    began,
    bgan,
    desnet,
    fa,
    gan,
    maskgan,
    pixelcnn,
    pixelrnn,
    ppgn,
    seqgan,
    sheet,
    vae,
)
from zoo.sheet import Entry
from zoo.views import STRING, STRING_LEVELS, in_strings, name

STRINGS = name(STRING, STRING_LEVELS)
MODELS = {                       # in the order of the sheet
    "abp": Entry("ABP", abp.animals, "quadrature"),
    "vae": Entry("VAE", vae.animals, "quadrature"),
    "fa": Entry("FA", fa.animals, "exact"),
    "desnet": Entry("descriptor", desnet.animals),
    "gan": Entry("GAN", gan.animals),
    "pixelcnn": Entry("PixelCNN", pixelcnn.animals, "levels", name(*pixelcnn.VIEW), pixelcnn.seen),
    "pixelrnn": Entry("PixelRNN", pixelrnn.animals, "levels", STRINGS, in_strings),
    "began": Entry("BEGAN", began.animals),
    "ppgn": Entry("PPGN", ppgn.animals, needs_kinds=True),
    "bgan": Entry("BGAN", bgan.animals, view=name((1, bgan.SIDE, bgan.SIDE), 2), seen=bgan.seen),
    "seqgan": Entry("SeqGAN", seqgan.animals, "levels", STRINGS, in_strings),
    "maskgan": Entry("MaskGAN", maskgan.animals, "levels", "half of 8 x 8", fills=True),
}


@dataclass(frozen=True)
class ZooConfig:
    name: str = option("all", "a model, or all of them", choices=("all", *MODELS), positional=True)
    data: str = option("", "folder of images; default: data/drawn")
    out: str = option("output/zoo", "folder for the sheet and its table")
    reuse: bool = option(False, "reuse models in --out that were trained on the same images")

    def __post_init__(self):
        check(self)


def compare(config, given):
    """Make the sheet of the configuration and print its table."""
    every = config.name == "all"
    entries = MODELS if every else {config.name: MODELS[config.name]}
    stem = "animals" if every else f"{config.name}_animals"
    try:
        table = sheet.make(entries, data_folder(config), config.out, stem, config.reuse)
    except KeyboardInterrupt:
        raise Interrupted("stopped; continue with --reuse") from None
    print(table.read_text("utf-8"))


def main(argv=None):
    """Run the command line -> exit status: 0, 2 after an error, 130 if stopped."""
    return run_program("python -m zoo", __doc__, {"": (ZooConfig, compare)}, argv)


if __name__ == "__main__":
    sys.exit(main())
