"""Variational autoencoder: an encoder in place of ABP's Langevin dynamics for each image.

    x = g(z) + eps,   z ~ N(0, I),   eps ~ N(0, sigma^2 I_D);   q(z | x) = N(m(x), diag s(x)^2)
    ELBO(x)   = E_q log p(x | z) - KL(q(z | x) || p(z))  <=  log p(x)       Kingma and Welling
              2014, Eq. 3
    IWAE_k(x) = E log 1/k sum_j p(x, z_j) / q(z_j | x),  ELBO <= IWAE_k <= log p   Burda et al.
                                                         2016, Eq. 8

log p(x | z) is summed over pixels and the KL over latents, both in nats per image: averages would
weight the two terms wrongly. For a latent of 2 dimensions quadrature estimates log p itself.
"""
import itertools
import math

import torch
from torch import nn

from models import GenNet
from zoo import abp
from zoo.metrics import evidence, likeliest_sigma
from zoo.networks import n_parameters
from zoo.train import cosine, descend

N_DRAWS, K = 1024, 64              # draws of q for the bounds, draws of a term of IWAE


class VAE(nn.Module):
    """A variational autoencoder.

    encoder  x (n, *shape) -> m(x) and log s(x), (n, 2 nz)
    decoder  z (n, nz) -> g(z) (n, *shape)
    sigma    std of the noise of a value; None: learned, starting at 1
    """

    def __init__(self, encoder, decoder, sigma=None, nz=2):
        super().__init__()
        self.encoder, self.decoder, self.nz = encoder, decoder, nz
        start = torch.tensor(math.log(sigma or 1.0))
        self.log_sigma = nn.Parameter(start, requires_grad=sigma is None)
        self.n_parameters = n_parameters(self)

    @property
    def sigma(self):
        """Std of the noise of a value, a float."""
        return self.log_sigma.exp().item()

    def encode(self, x):
        """m(x) and s(x), (n, nz) each."""
        mean, log_sd = self.encoder(x).chunk(2, 1)
        return mean, log_sd.exp()

    def elbo(self, x, sigma=None):
        """Estimate of the ELBO from one draw, the KL in closed form, in nats: (n, *shape) -> (n,).

        sigma  std of the noise; None: the model's own
        """
        mean, sd = self.encode(x)
        z = mean + sd * torch.randn_like(sd)             # reparameterised: gradients reach m and s
        kl = (mean.square() + sd.square() - 1).sum(1) / 2 - sd.log().sum(1)
        return self.log_likelihood(x, z, sigma) - kl

    def log_likelihood(self, x, z, sigma=None):
        """log p(x | z) in nats, summed over the values of x: (n, *shape), (n, nz) -> (n,)."""
        log_sigma = self.log_sigma if sigma is None else torch.tensor(math.log(sigma))
        square = (x - self.decoder(z)).square().flatten(1).sum(1)
        constant = x[0].numel() * (log_sigma + math.log(2 * math.pi) / 2)
        return -square / (2 * (2 * log_sigma).exp()) - constant

    @torch.no_grad()
    def bounds(self, x, n_draws=N_DRAWS, k=K):
        """Estimates of ELBO and IWAE_k from the same draws, in nats: (n, *shape) -> (n,), (n,)."""
        mean, sd = self.encode(x)
        weights = []                                     # log p(x, z) - log q(z | x)
        for _ in range(n_draws):
            noise = torch.randn_like(sd)
            z = mean + sd * noise
            prior_over_q = (noise.square() - z.square()).sum(1) / 2 + sd.log().sum(1)
            weights.append(self.log_likelihood(x, z) + prior_over_q)
        groups = torch.stack(weights).view(n_draws // k, k, len(x))
        return groups.mean((0, 1)), (groups.logsumexp(1) - math.log(k)).mean(0)

    @torch.no_grad()
    def log_prob(self, x):
        """Estimate of log p(x) in nats by quadrature over the latent plane: -> (n,) float64."""
        return evidence(self.decoder, x, self.sigma, self.encode(x)[0]).log_p

    @torch.no_grad()
    def sample(self, n):
        """g(z), z ~ N(0, I), without the noise: (n, *shape)."""
        return self.decoder(torch.randn(n, self.nz))

    @torch.no_grad()
    def reconstruct(self, x):
        """g(m(x)): (n, *shape) -> the same."""
        return self.decoder(self.encode(x)[0])


def fit(model, x, steps, lr, *, schedule=cosine, sigma=lambda progress: None, batch=128,
        clip=math.inf):
    """Maximise the mean ELBO of x (n, *shape) -> model.

    lr, schedule, clip  as of train.descend
    sigma  progress in [0, 1) -> std of the noise in that step; None: the model's own
    batch  items of a step, drawn at random; all items if there are no more
    """
    count = itertools.count()

    def loss():
        items = x if len(x) <= batch else x[torch.randint(len(x), (batch,))]
        return -model.elbo(items, sigma(next(count) / steps)).mean()

    descend(model.parameters(), loss, steps, lr, schedule=schedule, clip=clip)
    return model


def fit_images(model, x, config, clip=math.inf):
    """fit with as many learning steps, the learning rates and the sigmas of ABP (abp.Config)."""
    return fit(model, x, config.n_epochs * config.learn_num_steps, config.lr,
               schedule=lambda progress: config.learning_rate(progress) / config.lr,
               sigma=lambda progress: config.sigma(int(progress * config.n_epochs)),
               batch=config.batch_size, clip=clip)


def image_vae(config):
    """ABP's generator as decoder, at ABP's sigma; strided convolutions down to 4 x 4 as encoder."""
    decoder = GenNet(config.nz, config.img_size, config.hidden, config.width)
    layers, channels, side = [], 3, config.img_size
    while side > 4:
        layers += [nn.Conv2d(channels, 2 * config.width, 4, 2, 1), nn.SiLU()]
        channels, side = 2 * config.width, side // 2
    encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 2 * config.nz))
    return VAE(encoder, decoder, config.mse_sigma, config.nz)


def animals(data):
    """ABP's generator as decoder, as many steps as ABP, then the sigma of maximum likelihood.

    Without clipped gradients the encoder diverges within 200 steps at ABP's learning rate.
    """
    config = abp.settings(data.shape[-1])
    model = fit_images(image_vae(config), data, config, clip=100.0)
    with torch.no_grad():
        sigma = likeliest_sigma(model.decoder, data, model.encode(data)[0])
        model.log_sigma.fill_(math.log(sigma))
    return model
