"""The deconvolution of the generator: kernel 4, stride 2, padding 1, written for speed on a CPU.

Each output pixel meets 2 x 2 pixels of the input, so the same map is a 2 x 2 convolution to four times the
channels, whose result is dealt out to the four output pixels that share a window. On a CPU that is quicker
forward where the output has few channels, and for the gradient of the weights where the input is large; where
it is small, one matrix product is. `python bench.py --parts layers` shows it.
"""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

FEW_CHANNELS, LARGE_SIDE = 16, 16          # below, and from which, the 2 x 2 form is quicker on a CPU


class Deconv(nn.ConvTranspose2d):
    """nn.ConvTranspose2d(channels, out, 4, 2, 1): (n, channels, s, s) -> (n, out, 2 s, 2 s).

    Computes in the dtype of its input, whatever that of its weights.
    """

    def __init__(self, channels, out):
        super().__init__(channels, out, 4, 2, 1)

    def forward(self, x):
        return _Deconvolution.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    def tangent(self, dx):
        """The derivative along dx (n, channels, s, s), which has no bias -> (n, out, 2 s, 2 s)."""
        return _deconvolve(dx, self.weight.to(dx.dtype), None)


class Bilinear(nn.Module):
    """Parametrization of a Deconv's weight: interpolation to twice the side after a mixture of the channels.

    What is learned is the mixture (channels, out, 1, 1), a sixteenth of the weight (channels, out, 4, 4).
    """

    TAPS = torch.tensor([0.25, 0.75, 0.75, 0.25])      # along an axis; two of them meet each output pixel

    def forward(self, mixture):
        return mixture * self.TAPS.outer(self.TAPS).to(mixture)

    def right_inverse(self, weight):
        """The mixture of a weight that interpolates; of another, by its tap in the second row and column."""
        return weight[:, :, 1:2, 1:2] / self.TAPS[1] ** 2


class _Deconvolution(torch.autograd.Function):
    """A backward pass of its own: autograd's spends a fifth of its time on the gradient of the bias alone."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _deconvolve(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (F.conv2d(grad, weight, None, 2, 1) if wants_x else None,
                _weight_gradient(x, weight, grad) if wants_weight else None,
                grad.sum((0, 2, 3)) if wants_bias else None)


def _deconvolve(x, weight, bias):
    if x.is_cuda or weight.shape[1] >= FEW_CHANNELS:
        return F.conv_transpose2d(x, weight, bias, 2, 1)
    return _deal(F.conv2d(x, _taps(weight), None if bias is None else bias.repeat(4), padding=1))


def _weight_gradient(x, weight, grad):
    if x.is_cuda:
        return conv2d_weight(grad, weight.shape, x, 2, 1)
    if x.shape[2] < LARGE_SIDE:
        return _weight_gradient_as_product(x, grad)
    taps = (4 * weight.shape[1], weight.shape[0], 2, 2)
    return _weight_of_taps(conv2d_weight(x, taps, _gather(grad), padding=1), weight.shape)


def _weight_gradient_as_product(x, grad):
    """One matrix product of the inputs with the 4 x 4 pixels of the output that each of them meets."""
    (n, c, s, _), out = x.shape, grad.shape[1]
    padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    image, row, column, _ = padded.stride()
    met = padded.as_strided((n, s, s, 4, 4, out), (image, 2 * row, 2 * column, row, column, 1))
    product = x.permute(0, 2, 3, 1).reshape(-1, c).T @ met.reshape(n * s * s, 16 * out)
    return product.view(c, 4, 4, out).permute(0, 3, 1, 2)


def _taps(weight):
    """(c, out, 4, 4) -> (4 out, c, 2, 2), channels in the order p, q, out.

    Output row 2 j + p - 1, p in {0, 1}, meets input row j - 1 + u, u in {0, 1}, at tap 2 (1 - u) + p; columns
    likewise with q and v.
    """
    c, out = weight.shape[:2]
    taps = weight.reshape(c, out, 2, 2, 2, 2).flip(2, 4)                  # c, out, u, p, v, q
    taps = taps.permute(3, 5, 1, 0, 2, 4).reshape(4 * out, c, 2, 2)
    return taps.contiguous(memory_format=torch.channels_last)


def _weight_of_taps(taps, shape):
    """The inverse of `_taps`, for its gradient."""
    c, out = shape[:2]
    weight = taps.reshape(2, 2, out, c, 2, 2).permute(3, 2, 4, 0, 5, 1)   # c, out, u, p, v, q
    return weight.flip(2, 4).reshape(shape).contiguous(memory_format=torch.channels_last)


def _deal(y):
    """Windows (n, 4 out, s + 1, s + 1) -> images (n, out, 2 s, 2 s): each result to its pixel."""
    n, channels, side, _ = y.shape
    rows = y.permute(0, 2, 3, 1).reshape(n, side, side, 2, channels // 2).transpose(2, 3)
    return rows.reshape(n, 2 * side, 2 * side, channels // 4)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


def _gather(grad):
    """The transpose of `_deal`; what was cut off at the border is 0."""
    n, out, side = len(grad), grad.shape[1], grad.shape[2] // 2 + 1
    rows = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).view(n, side, 2, side, 2 * out).transpose(2, 3)
    return rows.reshape(n, side, side, 4 * out).permute(0, 3, 1, 2)
