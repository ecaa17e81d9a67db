"""The loop that public solutions of the course run, written plainly, for bench.py to measure against.

Generator with ReLU and batch normalisation in train mode, float32, one autograd gradient for each of 120
Langevin steps an epoch, then one Adam step (4e-4, betas .5 and .999, decay .996). Their usual mistakes in
Eq. 6 are left out.

    python reference.py FOLDER CURVE.json N_EPOCHS       record its PSNR, epoch by epoch, on a folder
"""
import sys

import torch
from torch import nn
from torch.nn import functional as F

from runs.files import hash_images, set_seed, write_json
from utils import load_img_tensors

LANGEVIN_STEPS, STEP_SIZE = 120, 0.03
PASSES = 2 * LANGEVIN_STEPS + 3              # network passes an epoch and image


class PublicNet(nn.Module):
    """z (n, 2) -> (n, 3, S, S): a linear layer to 512 x 4 x 4, then deconvolutions to 256, 128, 64, ... 3."""

    def __init__(self, img_size=128):
        super().__init__()
        self.first = nn.Linear(2, 512 * 16)
        layers, channels = [], 512
        for _ in range(img_size.bit_length() - 4):
            layers += [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
                       nn.BatchNorm2d(channels // 2), nn.ReLU(inplace=True)]
            channels //= 2
        self.deconv = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh())
        for m in self.modules():
            if isinstance(m, nn.ConvTranspose2d):
                nn.init.xavier_normal_(m.weight)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.weight, 1, 0.02)

    def forward(self, z):
        return self.deconv(F.relu(self.first(z)).view(-1, 512, 4, 4))


class Reference:
    """The loop's state: images (n, 3, S, S), a generator (PublicNet unless given), latents, an optimizer."""

    def __init__(self, images, net=None, seed=1):
        set_seed(seed)
        self.images, self.net = images.contiguous(), net or PublicNet(images.shape[2])
        self.optimizer = torch.optim.Adam(self.net.parameters(), 4e-4, (0.5, 0.999))
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.996)
        self.z = torch.randn(len(images), 2)

    def langevin_step(self, z):
        z = z.detach().requires_grad_(True)
        loss = F.mse_loss(self.net(z), self.images, reduction="sum") / 2             # sigma = 1
        (grad,) = torch.autograd.grad(loss, z)
        return (z - STEP_SIZE**2 / 2 * (grad + z) + STEP_SIZE * torch.randn_like(z)).detach()

    def learning_step(self):
        """One Adam step; returns the images that were generated before it."""
        generated = self.net(self.z)
        loss = F.mse_loss(generated, self.images, reduction="sum") / (2 * len(self.images))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return generated.detach()

    def epoch(self):
        """One epoch -> PSNR of its reconstructions in dB, before the learning step."""
        for _ in range(LANGEVIN_STEPS):
            self.z = self.langevin_step(self.z)
        generated = self.learning_step()
        self.schedule.step()
        mse = (generated - self.images).square().mean((1, 2, 3))
        return (10 * torch.log10(4 / mse)).mean().item()


def main(folder, path, n_epochs):
    reference, psnr = Reference(load_img_tensors(folder, 128)[0]), []
    for _ in range(int(n_epochs)):
        psnr.append(round(reference.epoch(), 3))
        write_json(path, {"img_size": 128, "psnr": psnr, "images": hash_images(folder)})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python reference.py FOLDER CURVE.json N_EPOCHS")
    main(*sys.argv[1:])
