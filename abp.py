"""Learning a generator network by alternating back-propagation (ABP).

    I = g(z; theta) + eps,   z ~ N(0, prior_sigma^2 I_nz),   eps ~ N(0, sigma^2 I_D)         (Eq. 1)
    U(z) = |I - g(z)|^2 / (2 sigma^2) + |z|^2 / (2 prior_sigma^2) = -log p(z, I) + const     (Eq. 3)

    (1) infer:  z_i <- Langevin steps on U, from the last z_i (warm) or the prior (cold)     (Eq. 6)
    (2) learn:  theta <- theta - Adam(d/dtheta mean_i |I_i - g(z_i)|^2 / (2 sigma^2))        (Eq. 7)

Han, Lu, Zhu, Wu: Alternating Back-Propagation for Generator Network, AAAI 2017; equation numbers of
the course handout. I: image of D values, g: generator, theta: its weights, z: latent, s: step size.

    python abp.py                      train warm and cold, draw every figure into output/001
    python abp.py --data FOLDER        your own images; --help lists every option
    python abp.py --preset handout     the plain algorithm of the handout
"""
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import utils
from explorer import pictures
from inference import masks
from inference.measures import log_row
from inference.posterior import Posterior, check_generator, frozen, sample_gaussian_prior
from inference.samplers import MOST_AGE, SAMPLERS, TARGETS
from models import MIN_SIZE, GenNet
from runs import recorder
from runs.device import DTYPES, choose_device, choose_precision
from runs.files import load_checkpoint, load_weights, set_seed
from runs.options import UserError, check, option, run_program

PRESETS = {"handout": {"langevin_step_size": 0.03, "langevin_num_steps": 10, "prior_draws": 0,
                       "learn_num_steps": 1, "z_noise": 0, "sigma_start": 1e-3}}


@dataclass(frozen=True)
class Config:
    """Hyperparameters: edit them here or on the command line: python abp.py --n_epochs 9"""
    start: str = option("both", "chains start from the last epoch's z (warm) or the prior (cold)",
                        choices=("both", "warm", "cold"), group="what to run")
    data: str = option("", "folder of images; none: the drawn faces in data/drawn")
    mask: str = option("none", f"visible pixels of the images: {masks.MEANING}")
    out: str = option("", "run folder to make; none: the next free output/001, output/002, ...")
    resume: str = option("", "run folder to continue; a larger --n_epochs extends a finished run")
    seed: int = option(1, "seed of all random numbers", 0, 2**31 - 1)
    device: str = option("auto", "auto, cpu, cuda or cuda:K; auto: a CUDA GPU if there is one")
    precision: str = option("auto", "of the convolutions; auto: bf16 if the hardware multiplies it",
                            choices=("auto", *DTYPES))

    n_epochs: int = option(240, "passes over the images", 1, 10**6, group="handout")
    lr: float = option(4.5e-3, "highest learning rate of Adam", 1e-7, 1)
    gamma: float = option(1.0, "factor of the learning rate per epoch, 0.996 in the course; 1: "
                               "warm-up, then a cosine to lr_end * lr", 1e-3, 1)
    beta1: float = option(0.9, "Adam's decay of the mean gradient", 0, 0.9999)
    beta2: float = option(0.999, "Adam's decay of the mean squared gradient", 0, 0.99999)
    langevin_num_steps: int = option(1, "Langevin steps per inference", 1, 10**5)
    langevin_step_size: float = option(0.0, "s of Eq. 6, std of a step's noise in units of z "
                                            "(smmala: of the posterior's width); 0: adapted", 0, 10)
    mse_sigma: float = option(3.0, "sigma of Eq. 3, std of the noise on a pixel in [-1, 1]: small "
                                   "for sharp images, large for a smooth plane", 1e-3, 1e4)
    prior_sigma: float = option(1.0, "std of the prior of z", 1e-3, 1e3)
    nz: int = option(2, "dimension of the latent z", 1, 128)
    img_size: int = option(128, "side of the images in pixels, a power of two", MIN_SIZE, 512)
    ninterp: int = option(12, "cells along each side of the interpolation panel", 2, 64)

    hidden: int = option(128, "width of the first layer; larger values allow a more nonlinear map",
                         1, 8192, group="generator")
    width: int = option(24, "channels at 64 x 64; more at smaller sides", 1, 512)

    batch_size: int = option(64, "images inferred and learned together", 1, 4096, group="learning")
    learn_num_steps: int = option(8, "learning steps after each inference", 1, 1000)
    lr_end: float = option(0.02, "fraction of lr at which the cosine ends", 0, 1)
    sigma_start: float = option(20.0, "sigma at the first epoch, if above mse_sigma, which it "
                                      "reaches after 60 % of the epochs", 1e-3, 1e4)
    z_noise: float = option(0.06, "std, in units of prior_sigma, of noise on z in learning steps, "
                                  "which makes the latent plane between images smooth", 0, 10)

    sampler: str = option("auto", "langevin is Eq. 6, mala adds an accept step, smmala a metric "
                                  "too; auto: langevin if a step size is given, else smmala",
                          choices=("auto", *SAMPLERS), group="inference")
    prior_draws: int = option(96, "draws of the prior that compete by likelihood to start a cold "
                                  "chain or replace a warm chain's state; 0: none", 0, 10**5)

    n_log: int = option(10, "epochs between lines of log.txt and between checkpoints", 1, 10**6,
                        group="output")
    n_plot: int = option(0, "epochs between snapshots; 0: a quarter of n_epochs", 0, 10**6)
    n_stats: int = option(0, "epochs between loss curves; 0: a quarter of n_epochs", 0, 10**6)
    tensorboard: bool = option(False, "log to TensorBoard too (pip install tensorboard)")

    def __post_init__(self):
        check(self)
        if self.img_size & (self.img_size - 1):
            raise UserError(f"--img_size must be a power of two such as 128, not {self.img_size}")
        masks.parse_mask(self.mask, self.img_size)

    @property
    def starts(self):
        return ("warm", "cold") if self.start == "both" else (self.start,)

    @property
    def chosen_sampler(self):
        """The sampler, with auto resolved."""
        automatic = "langevin" if self.langevin_step_size else "smmala"
        return automatic if self.sampler == "auto" else self.sampler

    def sigma(self, epoch, visible=1.0):
        """sigma of Eq. 3 in an epoch; it starts lower if only a fraction of pixels is visible."""
        first = max(self.sigma_start * math.sqrt(visible), self.mse_sigma)
        done = min(1.0, epoch / (0.6 * self.n_epochs))
        return first ** (1 - done) * self.mse_sigma ** done

    def learning_rate(self, progress):
        """Adam's learning rate at a progress in [0, 1): lr gamma^epoch, or warm-up and a cosine."""
        if self.gamma < 1:
            return self.lr * self.gamma ** int(progress * self.n_epochs + 1e-9)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        warm_up = min(1.0, progress / 0.04 + 0.01)
        return self.lr * warm_up * (self.lr_end + (1 - self.lr_end) * cosine)


class ABP:
    """A generator and a latent for each training image. Iterating trains; see __iter__.

    images  (n, 3, S, S) in [-1, 1];  names  a str for each, used in error messages
    start   "warm" or "cold";  precision  "fp32" or "bf16"
    Raises UserError if the generator mixes the images of a batch or makes images of another shape.
    """

    def __init__(self, config, images, start="warm", device="cpu", precision="fp32", names=None):
        if start not in ("warm", "cold"):
            raise UserError(f'start must be "warm" or "cold", not {start!r}')
        self.config, self.images, self.start = config, images.cpu(), start
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.names = names or [f"image {i}" for i in range(len(images))]
        self.mask = masks.make_mask(config.mask, len(images), config.img_size, config.seed)
        set_seed(config.seed)
        self.visible, self.smooth = masks.visible_fraction(self.mask), masks.halvings(self.mask)
        self.net = GenNet(config.nz, config.img_size, config.hidden, config.width, self.smooth)
        self.net.to(self.device, memory_format=torch.channels_last)
        check_generator(self.net, config.nz, images.shape[1:])
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.Adam(self.net.parameters(), config.lr, betas, fused=True)
        self.z = self._prior(len(images))
        first_step = 1.0 if config.chosen_sampler == "smmala" else 0.1 * config.prior_sigma
        self.step = torch.full_like(self.z[:, 0], config.langevin_step_size or first_step)
        self.epoch, self.passes, self.jumps, self.history = 0, 0, 0, []

    # ---- step 1: infer
    def infer(self, index):
        """Step 1 for images `index` (m,): moves self.z -> acceptance rate, step size, (m,) each."""
        (x, mask), sigma = self._batch(index), self.config.sigma(self.epoch, self.visible)
        z = self.chain_start(self.posterior(x, sigma, mask), self.z[index])
        self.jumps += (z != self.z[index]).any(1).sum().item() if self.start == "warm" else 0
        chains = self.sample_langevin(z, x, sigma, mask, self.step[index])
        self._check_finite(chains.z, index, "its chain",
                           "lower --langevin_step_size or use --sampler smmala")
        self.z[index], self.step[index] = chains.z, chains.step
        self.passes += chains.passes * len(index)
        return chains.acceptance, chains.step

    def chain_start(self, posterior, current):
        """States where chains start, (n, nz): `current` after jumps (warm) or the prior (cold)."""
        warm, n, n_draws = self.start == "warm", len(current), self.config.prior_draws
        if not n_draws:
            return current if warm else self._prior(n)
        self.passes += n_draws + (n if warm else 0)
        return posterior.resample(self._prior(n_draws), current if warm else None)

    def sample_langevin(self, z, x, sigma=None, mask=None, step=None):
        """Langevin steps on p(z | x) from z (n, nz), with step sizes (n,) -> Chains    (Eq. 6)"""
        config, posterior = self.config, self.posterior(x, sigma, mask)
        name, step = config.chosen_sampler, self.step.median() if step is None else step
        density = posterior.local if name == "smmala" else posterior.energy
        target = None if config.langevin_step_size else TARGETS[name]
        age = min(self.epoch * config.langevin_num_steps, MOST_AGE)
        return SAMPLERS[name](density, z, config.langevin_num_steps, step, target, age)

    def posterior(self, x, sigma=None, mask=None):
        """p(z | x) of the current generator for images x (n, 3, S, S); sigma None: mse_sigma."""
        sigma, prior_sigma = sigma or self.config.mse_sigma, self.config.prior_sigma
        return Posterior(frozen(self.net), x, sigma, prior_sigma, self.dtype, mask)

    # ---- step 2: learn
    def learn(self, index, progress):
        """Step 2 for images `index` (m,): an Adam step along Eq. 7 at their z, with z_noise added.

        progress in [0, 1) sets the learning rate. Returns the norm of the gradient at mse_sigma.
        """
        (x, mask), z = self._batch(index), self.z[index]
        z = z + self.config.z_noise * self.config.prior_sigma * torch.randn_like(z)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
            error = x - self.net(z).float()
        squared_error = (error if mask is None else error * mask).square().sum((1, 2, 3))
        self._check_finite(squared_error.detach(), index, "its reconstruction", "lower --lr")
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(progress)
        self.optimizer.zero_grad(set_to_none=True)
        # proportional to Eq. 7; Adam is scale-invariant
        (squared_error.mean() / x[0].numel()).backward()
        self.optimizer.step()
        self.passes += 3 * len(index)             # forward, backward to inputs and to weights
        norms = [p.grad.norm() for p in self.net.parameters() if p.grad is not None]
        return torch.stack(norms).norm() * x[0].numel() / (2 * self.config.mse_sigma**2)

    # ---- the algorithm
    def __iter__(self):
        """Alternate the two steps until n_epochs. Yields a row of the log (a dict) per epoch."""
        config, n = self.config, len(self.images)
        n_batches = math.ceil(n / config.batch_size)
        while self.epoch < config.n_epochs:
            began, chains, norms = time.perf_counter(), [], []
            self.passes, self.jumps = 0, 0
            batches = torch.randperm(n).to(self.device).tensor_split(n_batches)
            for batch, index in enumerate(batches):
                chains.append(torch.stack(self.infer(index)))              # step 1, Eq. 6
                for k in range(config.learn_num_steps):                    # step 2, Eq. 7
                    done = (batch + k / config.learn_num_steps) / n_batches
                    norms.append(self.learn(index, (self.epoch + done) / config.n_epochs))
            self.epoch += 1
            row = log_row(self, *torch.cat(chains, 1), torch.stack(norms).mean().item())
            self.history.append(row | {"seconds": time.perf_counter() - began})
            yield self.history[-1]

    def _prior(self, n):
        return sample_gaussian_prior(n, self.config.nz, self.config.prior_sigma).to(self.device)

    def _batch(self, index):
        """Images and mask of `index` on the device; hidden pixels are 0 and have no effect."""
        index = index.cpu()
        x, mask = self.images[index], None
        if self.mask is not None:
            mask = self.mask[index]
            x, mask = masks.hide(x, mask), mask.to(self.device)
        return x.to(self.device, memory_format=torch.channels_last), mask

    def _check_finite(self, values, index, what, remedy):
        good = torch.isfinite(values.view(len(values), -1)).all(1)
        if not good.all():
            raise UserError(f"{self.names[index[~good][0]]}: {what} is not finite in epoch "
                            f"{self.epoch + 1} of the {self.start} start; {remedy}")


def fit(images, **options):
    """Train one start from Python -> (generator in eval mode, z (n, nz), history: list of dicts).

    images   (n, 3, S, S) in [-1, 1], a tensor or an array
    options  fields of Config; start is "warm" by default; no files are read (but a mask) or written
    Raises UserError if shape, type or range of the images or of an option is wrong.
    """
    images = utils.check_images(images)
    config = Config(**{"start": "warm", "img_size": images.shape[-1]} | options)
    device = choose_device(config.device)
    model = ABP(config, images, config.start, device, choose_precision(config.precision, device))
    history = list(model)
    return frozen(model.net), model.z, history


def load_run(folder):
    """A trained start such as "output/001/warm" -> (config, generator in eval mode, z (n, nz)).

    Tensors are on the CPU. Raises UserError if the folder holds no valid checkpoint.
    """
    path = Path(folder) / "checkpoint.pt"
    checkpoint = load_checkpoint(path)
    try:
        config = Config(**checkpoint["config"])
    except TypeError:
        raise UserError(f"{path}: was made by another version of the program; train anew") from None
    net = GenNet(config.nz, config.img_size, config.hidden, config.width, checkpoint["smooth"])
    load_weights(net.to(memory_format=torch.channels_last), checkpoint, path)
    return config, frozen(net), checkpoint["z"]


def train(config, given=frozenset()):
    """Begin or resume a run: train each start and write all files of the run folder."""
    run = recorder.open_run(config, given, utils.load_inputs)
    metrics, histories = {}, {}
    for start in run.config.starts:
        model = ABP(run.config, run.images, start, run.device, run.precision, run.names)
        run.train(model, pictures.draw_epoch)
        metrics[start] = pictures.draw_start(model, run.folder / start)
        histories[start] = model.history
        print(f"{run.folder / start}: PSNR {metrics[start]['psnr']:.2f} dB, "
              f"{metrics[start]['seconds']:.0f} s")
    utils.draw_pairs(run.folder, histories, run.config)
    run.finish(metrics, model.net)


def main(argv=None):
    """Run the command line -> exit status: 0, 2 after an error (one line), 130 if stopped."""
    return run_program("abp.py", __doc__, {"": (Config, train)}, argv, PRESETS)


if __name__ == "__main__":
    sys.exit(main())
