"""What PixelCNN is held to: the probe of its masks, and the digits."""
from zoo.bars import pixels
from zoo.bars.pixels import kernel
from zoo.pixelcnn import PixelCNN

# ------------------------------------------------------------------------------------------------------ exact

def _whole_row(net):
    net.blocks[0].change[3].mask[:, :, 1] = 1


def exact():
    """Nothing of the future leaks, the past reaches as far as the kernels go, and p is what is drawn."""
    def make(shape, levels, n_blocks=4):
        return PixelCNN(shape, levels, 12, n_blocks, dropout=0)

    leaks = {"mask B first": pixels.mask_b_first, "a kernel's whole middle row": _whole_row}
    return pixels.exact_checks("PixelCNN", make, leaks, [kernel(7, 7, False)] + 4 * [kernel(3, 3, True)],
                               {"2 blocks": lambda *sizes: make(*sizes, n_blocks=2)})


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0):
    """Digits at 17 levels."""
    return pixels.digit_checks("PixelCNN", lambda: PixelCNN((1, 8, 8), 17), 1200, 1.90, seed)
