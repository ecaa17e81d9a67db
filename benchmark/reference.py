"""The loop of public solutions of the course, with Eq. 6 as in the handout.

Float32; an epoch is 120 Langevin steps with one gradient each, then one Adam step.
"""
import torch
from torch import nn

STEP_SIZE = 0.03


def public_net(img_size):
    """z (n, 2) -> (n, 3, S, S): a linear layer, then deconvolutions with batch normalisation."""
    layers, channels = [nn.Linear(2, 512 * 16), nn.ReLU(), nn.Unflatten(1, (512, 4, 4))], 512
    for _ in range(img_size.bit_length() - 4):
        layers += [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
                   nn.BatchNorm2d(channels // 2), nn.ReLU(inplace=True)]
        channels //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh())


class Reference:
    """The loop on images (n, 3, S, S) for a generator and latents z (n, nz), with sigma = 1."""

    def __init__(self, images, net, z):
        self.images, self.net, self.z = images.to(z.device), net.to(z.device), z
        self.optimizer = torch.optim.Adam(net.parameters(), 4e-4, (0.5, 0.999))

    def squared_error(self, z):
        return (self.net(z) - self.images).square().sum()

    def langevin_step(self):
        z = self.z.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(self.squared_error(z) / 2, z)
        noise = STEP_SIZE * torch.randn_like(z)
        self.z = (z - STEP_SIZE**2 / 2 * (grad + z) + noise).detach()

    def learning_step(self):
        self.optimizer.zero_grad()
        (self.squared_error(self.z) / (2 * len(self.images))).backward()
        self.optimizer.step()
