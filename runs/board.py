"""TensorBoard for --tensorboard: the numbers of the log and the pictures of each snapshot.

    pip install tensorboard
    python abp.py --tensorboard
    tensorboard --logdir output
"""
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image

from runs.options import UserError


def require():
    """The class of TensorBoard's writer. Raises UserError if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # an optional package, slow to import
    except ImportError as error:
        raise UserError(f"--tensorboard: its package cannot be imported ({error}); "
                        "pip install tensorboard, or leave the option out") from None
    return SummaryWriter


class Board(AbstractContextManager):
    """Event files of a training after `epoch`, without later events; none if not `wanted`."""

    def __init__(self, folder, epoch, wanted):
        self.writer = require()(folder, purge_step=epoch + 1) if wanted else None

    def __exit__(self, *_):
        if self.writer:
            self.writer.close()

    def add(self, row):
        """A row of the log: a dict of numbers, with its epoch."""
        if self.writer:
            for name, value in row.items():
                self.writer.add_scalar(name, value, row["epoch"])

    def add_pictures(self, paths, epoch):
        """Pictures such as 0060_recon.png, which appears as recon."""
        for path in paths if self.writer else ():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(path.stem.split("_")[-1], pixels, epoch, dataformats="HWC")
