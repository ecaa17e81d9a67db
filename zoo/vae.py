"""Variational autoencoder: an encoder learns at once what ABP infers with Langevin dynamics, image by image.

    x = g(z) + eps,   z ~ N(0, I),   eps ~ N(0, sigma^2 I_D);   q(z | x) = N(m(x), diag s(x)^2)
    ELBO(x)   = E_q log p(x | z) - KL(q(z | x) || p(z))  <=  log p(x)         Kingma and Welling 2014, Eq. 3
    IWAE_k(x) = E log 1/k sum_j p(x, z_j) / q(z_j | x),  ELBO <= IWAE_k <= log p    Burda et al. 2016, Eq. 8

log p(x | z) is summed over pixels and the KL over latents, both in nats of one image: an average over pixels
would count the KL D times too much, one over latents and pixels too little. With a latent of 2 dimensions
log p itself is known by quadrature, so that nothing has to be judged by its bound.
"""
import dataclasses
import math

import torch
from torch import nn
from torch.func import jvp

from abp import ROOT
from data.draw import draw_set
from evaluation.linear import fit_pca, log_normal
from evaluation.reconstruction import errors
from models import GenNet
from utils import load_img_tensors, to_side, to_tensor
from zoo import abp
from zoo.core import Check, mlp, n_parameters
from zoo.measure import dense, evidence, likeliest_sigma
from zoo.worlds import digits

N_DRAWS, K = 1024, 64              # draws of q with which bounds are estimated, and of each term of IWAE


class Decoder(nn.Module):
    """Layers z (n, nz) -> (n, D) as a generator of items (n, *shape), with the parts of GenNet."""

    def __init__(self, layers, shape):
        super().__init__()
        self.code, self.deconv = layers, nn.Unflatten(1, shape)

    def forward(self, z, dtype=None):
        return self.deconv(self.code(z))

    @torch.no_grad()
    def jacobian(self, z, dtype=None):
        """g(z) (n, *shape) and dg/dz (nz, n, *shape)."""
        axes = torch.eye(z.shape[1], dtype=z.dtype)
        tangents = [jvp(self, (z,), (axis.repeat(len(z), 1),))[1] for axis in axes]
        return self(z), torch.stack(tangents)


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


# ------------------------------------------------------------------------------------------------------ exact

class _NotReparameterised(VAE):
    """No gradient from the likelihood reaches the encoder."""

    def _log_likelihood(self, x, z, sigma=None):
        return super()._log_likelihood(x, z.detach(), sigma)


def exact():
    """On a linear decoder with orthogonal columns, whose posterior N(m*, diag s*^2) is known."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.linalg.qr(torch.randn(64, 2, generator=generator))[0] * torch.tensor([2.0, 0.7])
    centre, sigma = torch.randn(64, generator=generator), 0.5
    precision = columns.square().sum(0) / sigma**2 + 1
    z = torch.randn(200, 2, generator=generator)
    x = (z @ columns.T + centre + sigma * torch.randn(200, 64, generator=generator)).view(-1, 1, 8, 8)
    log_p = log_normal(x.flatten(1).double(), centre.double(), columns.T.double(), torch.tensor(sigma**2))

    def model(shift=0.0, widen=1.0, kind=VAE, **kwargs):
        """A VAE with this decoder, and an encoder that gives m* + shift and widen s*."""
        encoder, decoder = nn.Linear(64, 4), nn.Linear(2, 64)
        with torch.no_grad():
            decoder.weight.copy_(columns)
            decoder.bias.copy_(centre)
            read = (columns / sigma**2 / precision).T
            encoder.weight.copy_(torch.cat([read, torch.zeros(2, 64)]))
            encoder.bias.copy_(torch.cat([shift - read @ centre, (widen / precision.sqrt()).log()]))
        return kind(nn.Sequential(nn.Flatten(), encoder), Decoder(decoder, (1, 8, 8)), sigma, **kwargs)

    def off(values):
        return (values - log_p).abs().max().item()

    shift, widen = 0.2, 1.5
    kl = (math.log(1 / widen) * 2 + widen**2 - 1) + shift**2 * precision.sum().item() / 2
    slope = -shift * precision                                    # d ELBO / dm
    with torch.no_grad():
        elbos = [torch.stack([model(shift, widen, kl_share=share).elbo(x) for _ in range(200)]).mean().item()
                 - log_p.mean().item() for share in (1, 1 / 64, 1 / 2)]
    gaps = [(log_p - bound).mean().item() for k in (1, K) for bound in model(shift, widen).bounds(x, k=k)]
    lost = model(kl_share=1 / 64).bounds(x)
    found = model()
    return [
        Check("q the posterior: |ELBO - log p|, largest [nats]", off(model().bounds(x)[0]), hi=0.01,
              source="equality; Kingma and Welling 2014, Eq. 1", controls={"KL / 64": off(lost[0])}),
        Check("q the posterior: |IWAE - log p|, largest [nats]", off(model().bounds(x)[1]), hi=0.01,
              source="equality", controls={"KL / 64": off(lost[1])}),
        Check("q shifted and widened: ELBO - log p + KL(q || posterior), mean [nats]", elbos[0] + kl,
              -0.02, 0.02, "0; Kingma and Welling 2014, Eq. 1",
              {"KL / 64": elbos[1] + kl, "KL averaged over latents": elbos[2] + kl}),
        Check("q shifted and widened: IWAE's gap / the ELBO's",
              gaps[3] / gaps[2], -0.01, 0.1, "tighter; Burda et al. 2016, Theorem 1",
              {"k = 1": gaps[1] / gaps[0]}),
        Check("d ELBO / dm off from -(m - m*) / s*^2 [share]",
              _slope_error(model(shift), x, slope), hi=0.05, source="closed form",
              controls={"not reparameterised": _slope_error(
                  model(shift, kind=_NotReparameterised), x, slope)}),
        Check("adaptive quadrature: |log p - closed form|, largest of 20 [nats]",
              (found.log_prob(x[:20]) - log_p[:20]).abs().max().item(), hi=0.01, source="Woodbury",
              controls={"the ELBO of a shifted q": off(model(shift).bounds(x)[0])}),
        Check("quadrature on a grid of 181^2: |log p - closed form|, largest [nats]",
              off(dense(found.decoder, x, sigma)), hi=0.01, source="Woodbury",
              controls={"15^2": off(dense(found.decoder, x, sigma, cells=15))}),
    ]


def _slope_error(model, x, slope):
    """Norm of (d mean ELBO / d m - slope) / norm of slope, from 400 draws for each item."""
    for _ in range(400):
        model.elbo(x).mean().backward()
    found = model.encoder[1].bias.grad[:2] / 400
    return ((found - slope).norm() / slope.norm()).item()


# ------------------------------------------------------------------------------------------------------ bench

def bench(seed=0):
    """The linear VAE at pPCA, a nonlinear one on digits, and ABP's generator learned in both ways."""
    return [*_linear(), *_nonlinear(), *_beside_abp(seed)]


def _linear():
    """Trained by the ELBO alone, the linear VAE arrives where the closed form is."""
    x = digits()[0][0]
    best = fit_pca(x, 2)
    best_log_p = best.log_density(x).mean().item()

    def measured(model):
        layer = model.decoder.code
        log_p = log_normal(x.double().flatten(1), layer.bias.double(), layer.weight.T.double(),
                           torch.tensor(model.sigma**2)).mean().item()
        return log_p, log_p - model.bounds(x, 128)[0].mean().item(), model.sigma**2

    (log_p, gap, noise), broken = (measured(fit(linear_vae(share), x, 4000, cosine(1e-2)))
                                   for share in (1.0, 1 / 64))
    source = "Lucas et al. 2019: the ELBO's maximum is pPCA's"
    return [
        Check("linear VAE: log p less pPCA's [nats]", log_p - best_log_p, -0.05, 1e-3, source,
              {"KL / 64": broken[0] - best_log_p}),
        Check("linear VAE: log p - ELBO [nats]", gap, -0.02, 0.02, source + ", where the bound is tight",
              {"KL / 64": broken[1]}),
        Check("linear VAE: sigma^2 / pPCA's", noise / best.noise.item(), 0.99, 1.01, source,
              {"variance of the data": x.var(0).mean().item() / best.noise.item()}),
    ]


def _nonlinear():
    """Two latents and hidden layers: what is gained on pPCA is real, and the bounds are bounds."""
    (x, _), (test, _) = digits()
    models = [fit(digit_vae(share), x, 5000, cosine(2e-3)) for share in (1.0, 1 / 64)]
    log_p, lost = (dense(model.decoder, test, model.sigma, cells=361) for model in models)
    (elbo, iwae), (claimed, claimed_iwae) = (model.bounds(test) for model in models)
    model, some = models[0], test[:60]
    others = (dense(model.decoder, some, model.sigma, cells=721), model.log_prob(some),
              dense(model.decoder, some, model.sigma, reach=9.0, cells=541))
    coarse = dense(model.decoder, some, model.sigma, cells=41)
    linear = fit_pca(x, 2).log_density(test).mean().item()
    source = "Burda et al. 2016, Theorem 1"
    return [
        Check("2-D VAE, digits: test log p by quadrature [nats]", log_p.mean().item(), lo=21.0,
              source="chosen on seeds 0 to 2, above what KL / 64 reaches",
              controls={"KL / 64": lost.mean().item(), "pPCA, 2 latents": linear}),
        Check("2-D VAE: ELBO - log p, the largest of any test image [nats]", (elbo - log_p).max().item(),
              hi=0.05, source=source + "; .05 is the estimate's own error",
              controls={"KL / 64": (claimed - lost).max().item()}),
        Check("2-D VAE: how far IWAE closes the gap from the ELBO to log p [share]",
              ((iwae - elbo).mean() / (log_p - elbo).mean()).item(), 0.25, 1.0, source,
              {"k = 1": ((model.bounds(test, k=1)[1] - elbo).mean() / (log_p - elbo).mean()).item(),
               "KL / 64": ((claimed_iwae - claimed).mean() / (lost - claimed).mean()).item()}),
        Check("quadrature: half the step, wider, adaptive: the largest difference of any of 60 [nats]",
              max((values - log_p[:60]).abs().max().item() for values in others), hi=0.05,
              source="four ways to one number", controls={"41^2": (coarse - log_p[:60]).abs().max().item()}),
    ]


def _beside_abp(seed, side=16):
    """The drawn faces, and new ones: the same generator, by the VAE and by ABP as the paper has it.

    That is an inference before every learning step, and no noise on the latents; Langevin takes three steps.
    """
    train, _ = load_img_tensors(ROOT / "data" / "drawn", side)
    new = torch.stack([to_tensor(face) for _, face in draw_set(48, 64, seed=1)])
    faces = {"training": train, "new": to_side(new, side)}
    config = abp.settings(side, seed, width=8, hidden=64, n_epochs=1920, learn_num_steps=1, z_noise=0.0,
                          langevin_num_steps=3)
    begun = dataclasses.replace(config, n_epochs=config.n_epochs // 10)
    ours, vae, short = (abp.Alternating(config, train), fit_images(image_vae(config), train, config),
                        abp.Alternating(begun, train))
    log_p = {part: vae.log_prob(x) for part, x in faces.items()}
    gap = {part: log_p[part] - vae.bounds(x)[0] for part, x in faces.items()}
    vae.kl_share = 1 / 64
    claimed = vae.bounds(train)[0]
    mse, vae_mse, short_mse = (errors(model.reconstruct(train), train)[0].mean().item()
                               for model in (ours, vae, short))

    def ahead(model, part):
        return (model.log_prob(faces[part]) - log_p[part]).mean().item()

    source = "the same generator, sigma and number of learning steps"
    control = "a tenth of ABP's epochs"
    return [
        Check("ABP less VAE: log p of the training faces [nats]", ahead(ours, "training"), lo=-0.5,
              source=source, controls={control: ahead(short, "training")}),
        Check("ABP less VAE: log p of 48 new faces [nats]", ahead(ours, "new"), lo=-2.0, source=source,
              controls={control: ahead(short, "new")}),
        Check("ABP / VAE: mean squared error of the training faces", mse / vae_mse, hi=3.0, source=source,
              controls={control: short_mse / vae_mse}),
        Check("VAE, faces: ELBO - log p, the largest of any face [nats]",
              max(-values.min().item() for values in gap.values()), hi=0.05, source="a bound",
              controls={"KL / 64": (claimed - log_p["training"]).max().item()}),
        Check("VAE, faces: log p - ELBO of new faces over training faces",
              (gap["new"].mean() / gap["training"].mean()).item(), lo=2.0,
              source="an encoder knows the faces that it saw best"),
    ]


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
