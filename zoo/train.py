"""Shared training loops: descent on a loss, rounds of a game, running mean of weights.

No function sets a seed; call runs.files.set_seed before training.
"""
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def constant(progress):
    """Constant learning rate: progress in [0, 1) -> factor."""
    return 1.0


def linear(progress):
    """Linear decay of the learning rate to 0: progress in [0, 1) -> factor."""
    return 1.0 - progress


def cosine(progress):
    """Cosine decay of the learning rate to 0: progress in [0, 1) -> factor."""
    return (1 + math.cos(math.pi * progress)) / 2


def scheduled(optimizer, steps, schedule):
    """A torch scheduler that multiplies the optimizer's learning rate by schedule(step / steps)."""
    return LambdaLR(optimizer, lambda step: schedule(step / steps))


def update(optimizer, loss, clip=math.inf):
    """One step of an optimizer on loss() -> (); returns the loss, a float.

    Only the optimizer's own weights receive a gradient, clipped to norm `clip`.
    """
    value = loss()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    value.backward(inputs=weights)
    if clip < math.inf:
        nn.utils.clip_grad_norm_(weights, clip)
    optimizer.step()
    return value.item()


def descend(parameters, loss, steps, lr, *, schedule=cosine, betas=(0.9, 0.999), weight_decay=0.0,
            clip=math.inf):
    """Minimise loss() -> () with AdamW for `steps` steps; returns the losses, a list of floats.

    parameters    iterable of the parameters to learn; those without requires_grad are skipped
    schedule      progress in [0, 1) -> factor of lr, such as constant, linear or cosine
    weight_decay  of AdamW; with 0 the step is that of Adam
    clip          largest norm of the gradient
    """
    learned = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr, betas, weight_decay=weight_decay, fused=True)
    scheduler, losses = scheduled(optimizer, steps, schedule), []
    for _ in range(steps):
        losses.append(update(optimizer, loss, clip))
        scheduler.step()
    return losses


def alternate(*players):
    """One round of a game; returns the last loss of each player, a list of floats.

    players  (optimizer, loss, k): k steps on loss() -> (), in this order. Each player sees the new
             weights of those before; its loss leaves no gradient in their weights.
    Raises ValueError unless every k is at least 1.
    """
    if any(k < 1 for _, _, k in players):
        raise ValueError("each k must be at least 1 step")
    return [[update(optimizer, loss) for _ in range(k)][-1] for optimizer, loss, k in players]


def running_mean(net, decay):
    """Exponential moving average of the weights of net (torch's AveragedModel).

    Call .update_parameters(net) after each step; .module is the averaged network.
    """
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)
    mean.update_parameters(net)                # torch's first update copies net; later ones average
    return mean
