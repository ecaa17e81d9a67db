"""TensorBoard, if it is asked for: every number of the log, and the pictures of each snapshot.

    pip install tensorboard
    python abp.py --tensorboard
    tensorboard --logdir output
"""
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


class Board:
    """Event files in a folder, of a training that stands after `epoch` epochs; what came later is
    dropped.

    wanted: False for one that writes nothing.
    """

    def __init__(self, folder, epoch, wanted):
        self.writer = require()(folder, purge_step=epoch + 1) if wanted else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.writer:
            self.writer.close()

    def add(self, row):
        """A row of the log: a dict of numbers, with its epoch."""
        if self.writer:
            for name, value in row.items():
                self.writer.add_scalar(name, value, row["epoch"])

    def add_pictures(self, paths, epoch):
        """PNG files such as recon.png or 0060_recon.png, under the last word of their names."""
        for path in paths if self.writer else ():
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(path.stem.split("_")[-1], pixels, epoch, dataformats="HWC")
