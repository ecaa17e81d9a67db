"""What the two PixelRNNs are held to: the probe of their masks, and the digits."""
from torch.nn import functional as F

from zoo.bars import pixels
from zoo.bars.pixels import kernel
from zoo.pixelrnn import DiagonalBlock, PixelRNN, RowBlock

# ------------------------------------------------------------------------------------------------------ exact

def _not_moved(net):
    for block in net.blocks:
        block.down = lambda states: states


def _moved_up(net):
    for block in net.blocks:
        block.down = lambda states: F.pad(states, (0, 0, 0, 1))[:, :, 1:]


def _whole_kernel(net):
    net.blocks[0].inputs.mask[:] = 1


def exact():
    """Nothing of the future leaks, the past reaches as far as the layers go, and p is what is drawn."""
    triangle = {(-k, j) for k in range(8) for j in range(-k, k + 1)}
    row = pixels.exact_checks(
        "Row LSTM", lambda *sizes: PixelRNN(RowBlock, *sizes, 12, dropout=0.0),
        {"mask B first": pixels.mask_b_first, "K_is not masked": _whole_kernel},
        [kernel(7, 7, False)] + 2 * [{(0, -1), (0, 0)}, triangle],
        {"1 block": lambda *sizes: PixelRNN(RowBlock, *sizes, 12, 1, dropout=0.0)})
    diagonal = pixels.exact_checks(
        "Diagonal BiLSTM", lambda *sizes: PixelRNN(DiagonalBlock, *sizes, 12, dropout=0.0),
        {"right-to-left map not moved down": _not_moved, "right-to-left map moved up": _moved_up,
         "mask B first": pixels.mask_b_first},
        [kernel(3, 15, False), kernel(15, 15, True)],
        {"7 x 7 first": lambda *sizes: PixelRNN(DiagonalBlock, *sizes, 12, size=(7, 7), dropout=0.0)})
    return row + diagonal


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0):
    """Digits at 17 levels."""
    def checks(name, kind, steps, best):
        return pixels.digit_checks(name, lambda: PixelRNN(kind, (1, 8, 8), 17), steps, best, seed)

    return checks("Row LSTM", RowBlock, 900, 1.95) + checks("Diagonal BiLSTM", DiagonalBlock, 800, 1.90)
