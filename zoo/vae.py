"""Variational autoencoder: an encoder learns at once what ABP infers with Langevin dynamics, image by image.

    x = g(z) + eps,   z ~ N(0, I),   eps ~ N(0, sigma^2 I_D);   q(z | x) = N(m(x), diag s(x)^2)
    ELBO(x)   = E_q log p(x | z) - KL(q(z | x) || p(z))  <=  log p(x)         Kingma and Welling 2014, Eq. 3
    IWAE_k(x) = E log 1/k sum_j p(x, z_j) / q(z_j | x),  ELBO <= IWAE_k <= log p    Burda et al. 2016, Eq. 8

log p(x | z) is summed over pixels and the KL over latents, both in nats of one image: an average over pixels
would count the KL D times too much, one over latents and pixels too little. With a latent of 2 dimensions
log p itself is known by quadrature, so that nothing has to be judged by its bound.
"""
import math

import torch
from torch import nn

from models import GenNet
from zoo import abp
from zoo.metrics import evidence, likeliest_sigma
from zoo.networks import mlp, n_parameters

N_DRAWS, K = 1024, 64              # draws of q with which bounds are estimated, and of each term of IWAE


class Decoder(nn.Module):
    """Layers z (n, nz) -> (n, D) as a generator of items (n, *shape), with the parts of GenNet."""

    def __init__(self, layers, shape):
        super().__init__()
        self.code, self.deconv = layers, nn.Unflatten(1, shape)

    def forward(self, z):
        return self.deconv(self.code(z))


class VAE(nn.Module):
    """encoder: x (n, *shape) -> (n, 2 nz), m(x) and log s(x); decoder: z (n, nz) -> g(z) (n, *shape).

    sigma     std of the noise on a value; None: learned, from 1
    kl_share  1, or what the KL is multiplied by in a control
    """
    exact = True                   # log_prob is log p itself, where nz is 2

    def __init__(self, encoder, decoder, sigma=None, nz=2, kl_share=1.0):
        super().__init__()
        self.encoder, self.decoder, self.nz, self.kl_share = encoder, decoder, nz, kl_share
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma or 1.0)), requires_grad=sigma is None)

    @property
    def sigma(self):
        return self.log_sigma.exp().item()

    @property
    def n_parameters(self):
        return n_parameters(self)

    def encode(self, x):
        """m(x) and s(x), (n, nz) each."""
        mean, log_sd = self.encoder(x).chunk(2, 1)
        return mean, log_sd.exp()

    def elbo(self, x, sigma=None):
        """One-draw estimate of the ELBO with the KL in closed form, in nats: x (n, *shape) -> (n,)."""
        mean, sd = self.encode(x)
        z = mean + sd * torch.randn_like(sd)                       # reparameterised: gradients reach m and s
        kl = (mean.square() + sd.square() - 1).sum(1) / 2 - sd.log().sum(1)
        return self._log_likelihood(x, z, sigma) - self.kl_share * kl

    def _log_likelihood(self, x, z, sigma=None):
        log_sigma = self.log_sigma if sigma is None else torch.tensor(math.log(sigma))
        square = (x - self.decoder(z)).square().flatten(1).sum(1)
        n_values = x[0].numel()
        return -square / (2 * (2 * log_sigma).exp()) - n_values * (log_sigma + math.log(2 * math.pi) / 2)

    @torch.no_grad()
    def log_weights(self, x, n_draws):
        """log p(x, z) - log q(z | x) at draws z of q, the KL's share counted: (n, *shape) -> (n_draws, n)."""
        mean, sd = self.encode(x)
        values = []
        for _ in range(n_draws):
            noise = torch.randn_like(sd)
            z = mean + sd * noise
            log_ratio = (noise.square() - z.square()).sum(1) / 2 + sd.log().sum(1)       # of p(z) to q(z | x)
            values.append(self._log_likelihood(x, z) + self.kl_share * log_ratio)
        return torch.stack(values)

    def bounds(self, x, n_draws=N_DRAWS, k=K):
        """Estimates of the ELBO and of IWAE_k from the same draws: (n, *shape) -> (n,), (n,)."""
        weights = self.log_weights(x, n_draws)
        groups = weights.view(n_draws // k, k, len(x))
        return weights.mean(0), (groups.logsumexp(1) - math.log(k)).mean(0)

    @torch.no_grad()
    def log_prob(self, x):
        """log p(x) in nats by adaptive quadrature over the latent plane: (n, *shape) -> (n,) float64."""
        return evidence(self.decoder, x, self.sigma, self.encode(x)[0]).log_p

    @torch.no_grad()
    def sample(self, n):
        """g(z), z ~ N(0, I), without the noise: (n, *shape)."""
        return self.decoder(torch.randn(n, self.nz))

    @torch.no_grad()
    def reconstruct(self, x):
        """g(m(x)): (n, *shape) -> the same."""
        return self.decoder(self.encode(x)[0])


def cosine(lr):
    """A learning rate that falls from lr to 0 along a cosine: a function of the progress in [0, 1)."""
    return lambda progress: lr * (1 + math.cos(math.pi * progress)) / 2


def fit(model, x, steps, learning_rate, sigma=lambda progress: None, batch=128, clip=math.inf):
    """Adam on the mean ELBO of x (n, *shape), of random batches if there are more items than `batch`.

    learning_rate, sigma  functions of the progress in [0, 1); a sigma of None is the model's own
    clip                  the longest gradient, in nats; a longer one is scaled down to it
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    for step in range(steps):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        items = x if len(x) <= batch else x[torch.randint(len(x), (batch,))]
        loss = -model.elbo(items, sigma(progress)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model


def fit_images(model, x, config, clip=math.inf):
    """As many learning steps as ABP takes, at its learning rates and along its sigmas (abp.Config)."""
    return fit(model, x, config.n_epochs * config.learn_num_steps, config.learning_rate,
               lambda progress: config.sigma(int(progress * config.n_epochs)), config.batch_size, clip)


def linear_vae(kl_share=1.0):
    """Encoder and decoder linear, 2 latents, sigma learned: at best probabilistic PCA (Lucas et al. 2019)."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    return VAE(encoder, Decoder(nn.Linear(2, 64), (1, 8, 8)), kl_share=kl_share)


def digit_vae(kl_share=1.0):
    """Two hidden layers of 128 on either side, 2 latents, sigma learned."""
    encoder = nn.Sequential(nn.Flatten(), mlp(64, 128, 128, 4, activation=nn.SiLU))
    return VAE(encoder, Decoder(mlp(2, 128, 128, 64, activation=nn.SiLU), (1, 8, 8)), kl_share=kl_share)


def image_vae(config):
    """ABP's generator as decoder, at ABP's sigma, and strided convolutions to 4 x 4 as encoder."""
    decoder = GenNet(config.nz, config.img_size, config.hidden, config.width)
    layers, channels, side = [], 3, config.img_size
    while side > 4:
        layers += [nn.Conv2d(channels, 2 * config.width, 4, 2, 1), nn.SiLU()]
        channels, side = 2 * config.width, side // 2
    head = nn.Linear(channels * 16, 2 * config.nz)
    encoder = nn.Sequential(*layers, nn.Flatten(), head)
    return VAE(encoder, decoder, config.mse_sigma, config.nz)


# ---------------------------------------------------------------------------------------------------- animals

def animals(data, seed=0):
    """ABP's generator as decoder, as many steps as ABP takes; sigma is the likeliest in the end.

    At ABP's learning rate the encoder diverges within 200 steps unless gradients are clipped.
    """
    config = abp.settings(data.shape[-1], seed)
    model = fit_images(image_vae(config), data, config, clip=100.0)
    with torch.no_grad():
        model.log_sigma.fill_(math.log(likeliest_sigma(model.decoder, data, model.encode(data)[0])))
    return model
