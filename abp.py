"""Learning a generator network by alternating back-propagation (ABP).

    I = g(z; theta) + eps,   z ~ N(0, prior_sigma^2 I_nz),   eps ~ N(0, sigma^2 I_D)                   (Eq. 1)
    U(z) = |I - g(z; theta)|^2 / (2 sigma^2) + |z|^2 / (2 prior_sigma^2) = -log p(z, I; theta) + const (Eq. 3)

    (1) infer:  z_i <- a few Langevin steps on U, from where the chain stood or from the prior         (Eq. 6)
    (2) learn:  theta <- theta - Adam(d/dtheta  1/n sum_i |I_i - g(z_i; theta)|^2 / (2 sigma^2))       (Eq. 7)

Han, Lu, Zhu, Wu: Alternating Back-Propagation for Generator Network, AAAI 2017; equation numbers are the
course handout's. I image, D its number of values, g generator, theta its weights, z latent, sigma noise, s
step size.

    python abp.py                                       train warm and cold, draw every figure into output/001
    python abp.py --data FOLDER --n_epochs 400          your own images; --help lists every option
"""
import dataclasses
import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

import utils
from inference.masks import MEANING, halvings, hide, make_mask, parse_mask, visible_share
from inference.posterior import Posterior, frozen, sample_gaussian_prior
from inference.samplers import TARGET_GRADIENT, langevin, mala, smmala
from models import MIN_SIZE, GenNet
from runs import recorder
from runs.device import choose_device, fastest
from runs.files import get_rng, load_checkpoint, set_rng, set_seed
from runs.options import UserError, check, exit_status, option, parse_args
from utils import load_img_tensors

ROOT = Path(__file__).resolve().parent
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAMPLERS = {"langevin": langevin, "mala": mala, "smmala": smmala}
# acceptance that automatic step sizes seek; Eq. 6, which takes every step, needs small ones for a small bias
TARGETS = {"langevin": 0.95, "mala": TARGET_GRADIENT, "smmala": TARGET_GRADIENT}
# The generator moves on, so adaptation during training fades no further than after so many steps. (On a fixed
# Gaussian that changes the variance by less than 1 % with smmala, by 4 % with mala.)
MOST_AGE = 10


@dataclass(frozen=True)
class Config:
    """Hyperparameters: edit here, or override on the command line: python abp.py --n_epochs 9 --start warm"""
    # what to run
    start: str = option("both", "chains go on from the last epoch (warm) or begin anew each epoch (cold)",
                        choices=("both", "warm", "cold"))
    data: str = option("data/drawn", "folder of images")
    mask: str = option("none", f"which pixels of the images are seen: {MEANING}")
    out: str = option("", "run folder to make; none: the next free output/001, output/002, ...")
    resume: str = option("", "run folder to go on with; a larger --n_epochs extends a finished run")
    seed: int = option(1, "seed of everything random", 0, 2**31 - 1)
    device: str = option("auto", "where to compute; auto: a CUDA GPU if there is one",
                         choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "arithmetic of the network; auto: the faster one, measured at the start",
                            choices=("auto", "fp32", "bf16"))
    # the generator
    img_size: int = option(128, "side of the images in pixels, a power of two", MIN_SIZE, 512)
    nz: int = option(2, "dimension of the latent z", 1, 128)
    hidden: int = option(128, "units of the layer that reads z; more bend the map from z more", 1, 8192)
    width: int = option(24, "channels at 64 x 64, more where the picture is smaller", 1, 512)
    prior_sigma: float = option(1.0, "std of the prior of z", 1e-3, 1e3)
    # learning, step 2
    n_epochs: int = option(240, "passes over the images: one inference, then learn_num_steps learning steps",
                           1, 10**6)
    batch_size: int = option(64, "images inferred and learned from together", 1, 4096)
    learn_num_steps: int = option(8, "gradient steps after each inference", 1, 1000)
    lr: float = option(4.5e-3, "learning rate of Adam, at its highest", 1e-7, 1)
    gamma: float = option(0.02, "the learning rate falls to gamma * lr at the end, along a cosine", 0, 1)
    beta1: float = option(0.9, "Adam's decay of the mean gradient", 0, 0.9999)
    beta2: float = option(0.999, "Adam's decay of the mean squared gradient", 0, 0.99999)
    z_noise: float = option(0.06, "std, in units of prior_sigma, of noise on z in the learning step: each "
                                  "image teaches a small disk, so the plane between stays smooth", 0, 10)
    # inference, step 1
    mse_sigma: float = option(3.0, "sigma of Eq. 3, std of the noise on a pixel in [-1, 1]: small for sharp "
                                   "images, large to spread each over more of the latent plane", 1e-3, 1e4)
    sigma_start: float = option(20.0, "sigma at the first epoch, if above mse_sigma, which it reaches after "
                                      "60 % of the epochs", 1e-3, 1e4)
    sampler: str = option("auto", "langevin is Eq. 6 as it stands, mala adds an accept step, smmala a metric "
                                  "too; auto: langevin if langevin_step_size is given, else smmala",
                          choices=("auto", *SAMPLERS))
    langevin_num_steps: int = option(1, "Langevin steps per inference", 1, 10**5)
    langevin_step_size: float = option(0.0, "s of Eq. 6, std of the noise of a step in units of z (smmala: "
                                            "of the posterior's width); 0: adapted for each image", 0, 10)
    cold_sigma: float = option(0.0, "sigma at the first step of a cold chain, if above the epoch's, which it "
                                    "reaches at the last step (tempering along the chain)", 0, 1e4)
    prior_draws: int = option(96, "draws of the prior that compete by likelihood to be a cold chain's start, "
                                  "or with a warm chain's state; 0: a plain draw, or the state", 0, 10**5)
    # what is written
    ninterp: int = option(12, "cells along each side of the interpolation panel", 2, 64)
    n_log: int = option(10, "epochs between lines of log.txt and between checkpoints", 1, 10**6)
    n_plot: int = option(60, "epochs between snapshots in epochs/", 1, 10**6)
    n_stats: int = option(60, "epochs between drawings of the loss curve, which shows every epoch", 1, 10**6)
    tensorboard: bool = option(False, "log to TensorBoard too (pip install tensorboard)")

    def __post_init__(self):
        check(self)
        if not self.data:
            raise UserError("--data is empty; give a folder of images")
        if self.img_size & (self.img_size - 1):
            raise UserError(f"--img_size must be a power of two from {MIN_SIZE}, not {self.img_size}")
        if self.cold_sigma and self.langevin_num_steps < 2:
            raise UserError("--cold_sigma tempers along a chain; give --langevin_num_steps of at least 2")
        parse_mask(self.mask, self.img_size)

    @property
    def starts(self):
        return ("warm", "cold") if self.start == "both" else (self.start,)

    @property
    def chosen_sampler(self):
        """The sampler, with auto resolved."""
        return self.sampler if self.sampler != "auto" else "langevin" if self.langevin_step_size else "smmala"

    @property
    def first_step(self):
        """The step size with which chains begin: the given one, or where its adaptation starts."""
        return self.langevin_step_size or (1.0 if self.chosen_sampler == "smmala" else 0.1 * self.prior_sigma)

    def sigma(self, epoch, visible=1.0):
        """sigma of Eq. 3 in an epoch: geometric to mse_sigma, where it is after 60 % of the epochs, from
        sigma_start, or less where only a share `visible` of the pixels adds to |I - g|^2."""
        start, share = self.sigma_start * math.sqrt(visible), min(1.0, epoch / (0.6 * self.n_epochs))
        return max(start, self.mse_sigma) ** (1 - share) * self.mse_sigma ** share

    def learning_rate(self, progress):
        """Adam's learning rate at a progress in [0, 1): warm-up over 4 %, then a cosine to gamma * lr."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * min(1.0, progress / 0.04 + 0.01) * (self.gamma + (1 - self.gamma) * cosine)


class ABP:
    """A generator and one latent per training image, learned together by alternating back-propagation.

    images (n, 3, S, S) in [-1, 1]; start "warm" or "cold"; names of the images, for messages. Pixels that
    config.mask hides have no part in training or in its log; only final results are compared with them.
    """

    def __init__(self, config, images, start="warm", device="cpu", precision="fp32", names=None):
        self.config, self.images, self.start = config, images, start
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.names = names or [f"image {i}" for i in range(len(images))]
        self.mask = make_mask(config.mask, len(images), config.img_size, config.seed)   # (n, 1, S, S) or None
        set_seed(config.seed)
        self.visible, self.smooth = visible_share(self.mask), halvings(self.mask)
        self.net = GenNet(config.nz, config.img_size, config.hidden, config.width, self.smooth)
        self.net.to(self.device, memory_format=torch.channels_last)
        betas = (config.beta1, config.beta2)
        self.optimizer = torch.optim.Adam(self.net.parameters(), config.lr, betas, fused=True)
        self.z = sample_gaussian_prior(len(images), config.nz, config.prior_sigma).to(self.device)
        self.step = torch.full_like(self.z[:, 0], config.first_step)      # of each image's chain
        self.epoch, self.passes, self.jumps, self.history = 0, 0, 0, []

    # ---- step 1: infer

    def posterior(self, x, sigma=None, mask=None):
        """p(z | x) of the generator as it stands, for images x (n, 3, S, S); sigma defaults to mse_sigma.

        mask (n, 1, S, S) is 1 where a pixel of x is seen; None: all are.
        """
        config = self.config
        return Posterior(frozen(self.net), x, sigma or config.mse_sigma, config.prior_sigma, self.dtype, mask)

    def sample_langevin(self, z, x, sigma=None, mask=None):
        """Chains of langevin_num_steps steps from z (n, nz) on the `posterior` of x -> Chains."""
        return self._sample(self.posterior(x, sigma, mask), z, self.config.first_step)

    def _sample(self, posterior, z, step):
        config, name = self.config, self.config.chosen_sampler
        target = None if config.langevin_step_size else TARGETS[name]
        runs = []
        for sigma, n_steps in self._ladder(posterior.sigma):
            density = posterior.at(sigma).local if name == "smmala" else posterior.at(sigma).energy
            age = min(self.epoch * config.langevin_num_steps, MOST_AGE)
            runs.append(SAMPLERS[name](density, z, n_steps, step, target, age))
            z, step = runs[-1].z, runs[-1].step
        return runs[-1]._replace(acceptance=torch.stack([chains.acceptance for chains in runs]).mean(0),
                                 passes=sum(chains.passes for chains in runs))

    def _ladder(self, sigma):
        """The sigmas along a chain and the steps at each: (sigma, langevin_num_steps), unless tempered."""
        n_steps, hot = self.config.langevin_num_steps, self.config.cold_sigma
        if self.start == "warm" or hot <= sigma or n_steps == 1:
            return [(sigma, n_steps)]
        return [(hot ** (1 - k / (n_steps - 1)) * sigma ** (k / (n_steps - 1)), 1) for k in range(n_steps)]

    def chain_start(self, posterior, current):
        """Where the chains of an epoch start -> z (n, nz); current (n, nz) is where they stood.

        Warm: where they stood, or a better place if the global move finds one. Cold: anew from the prior.
        """
        n = len(current)
        if self.start == "cold":
            current = None
        if not self.config.prior_draws:
            return self._prior(n) if current is None else current
        self.passes += self.config.prior_draws + (0 if current is None else n)
        return posterior.resample(self._prior(self.config.prior_draws), current)

    def _prior(self, n):
        return sample_gaussian_prior(n, self.config.nz, self.config.prior_sigma).to(self.device)

    def infer(self, index):
        """Step 1 for the images `index` (m,): new z, kept in self.z -> acceptance (m,), step size (m,)."""
        x, mask = self._batch(index)
        posterior = self.posterior(x, self.config.sigma(self.epoch, self.visible), mask)
        begin = self.chain_start(posterior, self.z[index])
        if self.start == "warm":
            self.jumps += (begin != self.z[index]).any(1).sum().item()
        chains = self._sample(posterior, begin, self.step[index])
        self._check_finite(chains.z, index, "its Langevin chain", "--langevin_step_size (0 chooses it)")
        self.z[index], self.step[index] = chains.z, chains.step
        self.passes += chains.passes * len(index)
        return chains.acceptance, chains.step

    # ---- step 2: learn

    def learn(self, index, progress):
        """Step 2 for the images `index` (m,): one Adam step on Eq. 7 at their z, widened by z_noise.

        progress in [0, 1) sets the learning rate. Returns the norm of the gradient of Eq. 7 at mse_sigma.
        """
        (x, mask), z = self._batch(index), self.z[index]
        z = z + self.config.z_noise * self.config.prior_sigma * torch.randn_like(z)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype == torch.bfloat16):
            error = x - self.net(z).float()
        squared_error = (error if mask is None else error * mask).square().sum((1, 2, 3))
        self._check_finite(squared_error.detach(), index, "its reconstruction", "--lr (a smaller one)")
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(progress)
        self.optimizer.zero_grad(set_to_none=True)
        (squared_error.mean() / x[0].numel()).backward()     # Eq. 7 up to a factor, to which Adam is blind
        self.optimizer.step()
        self.passes += 3 * len(index)                        # forward, backward to the inputs, to the weights
        norm = torch.stack([p.grad.norm() for p in self.net.parameters()]).norm()
        return norm * x[0].numel() / (2 * self.config.mse_sigma**2)

    def train(self):
        """The algorithm, from self.epoch to n_epochs. Yields a row of the log (a dict) after each epoch."""
        config, n = self.config, len(self.images)
        while self.epoch < config.n_epochs:
            began, found, norms, self.passes, self.jumps = time.perf_counter(), [], [], 0, 0
            order = torch.randperm(n).to(self.device)
            for index in order.tensor_split(math.ceil(n / config.batch_size)):
                found.append(torch.stack(self.infer(index)))                              # step 1, Eq. 6
                for k in range(config.learn_num_steps):                                   # step 2, Eq. 7
                    progress = (self.epoch + k / config.learn_num_steps) / config.n_epochs
                    norms.append(self.learn(index, progress))
            norm = torch.stack(norms).mean().item()
            if not math.isfinite(norm):
                raise UserError(f"the gradient is not finite in epoch {self.epoch + 1} of the {self.start} "
                                "start; change --lr (a smaller one)")
            self.epoch += 1
            row = self._row(*torch.cat(found, 1), norm)
            self.history.append(row | {"seconds": time.perf_counter() - began})
            yield self.history[-1]

    def _row(self, acceptance, step, norm):
        row = {"epoch": self.epoch, "sigma": self.config.sigma(self.epoch - 1, self.visible)}
        row |= utils.reconstruction(self.net, self.z, self.images, self.config.mse_sigma, self.mask)
        for name, values in (("mean", self.z.mean(0)), ("std", self.z.std(0, correction=0))):
            row |= {f"z_{name}_{k + 1}": value for k, value in enumerate(values.tolist())}
        return row | {"z_mean_square": self.z.square().mean().item(), "grad_norm": norm,
                      "step": step.mean().item(), "accept": acceptance.mean().item(),
                      "unstable": (acceptance < 0.01).float().mean().item(),
                      "jumps": self.jumps / len(self.images), "passes": self.passes / len(self.images)}

    def _batch(self, index):
        """Images and mask at `index`, on the device; hidden pixels are 0, so that nothing can learn them."""
        index = index.cpu()
        x, mask = self.images[index], None
        if self.mask is not None:
            mask = self.mask[index]
            x, mask = hide(x, mask), mask.to(self.device)
        return x.to(self.device, memory_format=torch.channels_last), mask

    def _check_finite(self, values, index, what, option_name):
        good = torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else torch.isfinite(values)
        if not good.all():
            name = self.names[index[~good][0]]
            raise UserError(f"{name}: {what} is not finite in epoch {self.epoch + 1} of the {self.start} "
                            f"start; change {option_name}")

    # ---- checkpoints

    def state(self):
        """A checkpoint: plain types and tensors, all that `restore` needs to go on bit for bit."""
        return {"config": dataclasses.asdict(self.config), "epoch": self.epoch,
                "generator": self.net.state_dict(), "smooth": self.smooth, "z": self.z, "step": self.step,
                "optimizer": self.optimizer.state_dict(), "image_names": self.names,
                "history": self.history, "rng": get_rng(self.device)}

    def restore(self, checkpoint, path):
        """Go back to a checkpoint that was read from `path`. Raises UserError if its contents do not fit."""
        load_weights(self.net, checkpoint, path)
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.z.copy_(checkpoint["z"])
            self.step.copy_(checkpoint["step"])
            set_rng(checkpoint["rng"], self.device)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"{path}: is damaged ({error}); delete it and --resume to train anew") from None
        self.epoch, self.history = checkpoint["epoch"], checkpoint["history"]


def load_weights(net, checkpoint, path):
    """Put the weights of a checkpoint into a generator. Raises UserError if they do not fit."""
    try:
        net.load_state_dict(checkpoint["generator"])
    except (RuntimeError, TypeError):
        raise UserError(f"{path}: weights and configuration differ; use it as it was written") from None


def load_run(folder):
    """A trained start, such as "output/001/warm": (config, generator in eval mode, z (n, nz)), on the CPU.

        config, net, z = load_run("output/001/warm")
        images = net(sample_gaussian_prior(16, config.nz, config.prior_sigma))     # new animals, in [-1, 1]

    Raises UserError if the folder holds no sound checkpoint.
    """
    path = Path(folder) / "checkpoint.pt"
    checkpoint = load_checkpoint(path)
    try:
        config = Config(**checkpoint["config"])
    except TypeError:
        raise UserError(f"{path}: was made by another version of this program; train anew") from None
    net = GenNet(config.nz, config.img_size, config.hidden, config.width, checkpoint.get("smooth", 0))
    load_weights(net.to(memory_format=torch.channels_last), checkpoint, path)
    return config, net.eval().requires_grad_(False), checkpoint["z"]


# ---------------------------------------------------------------------------------------- the command line

def choose_precision(config, device, n):
    """The arithmetic of --precision; auto: the one whose learning step is faster here."""
    if config.precision != "auto":
        return config.precision
    blank = torch.zeros(min(n, config.batch_size), 3, config.img_size, config.img_size)
    models = {p: ABP(config, blank, device=device, precision=p) for p in ("fp32", "bf16")}
    index = torch.arange(len(blank), device=device)
    return fastest({p: lambda m=m: m.learn(index, 0.0).item() for p, m in models.items()})


def data_folder(config):
    """The folder of --data; the default lies beside this file, wherever the command is given."""
    return ROOT / config.data if config.data == Config.data else Path(config.data)


def main(argv=None):
    """Run the command line -> exit status: 0, 2 after an error (one line on stderr), 130 if stopped."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)   # torch's own

    def action():
        train(*parse_args(Config, argv, description=__doc__))

    return exit_status("abp.py", action)


def train(config, given=frozenset()):
    """Begin or resume a run: train its starts, write all that the run folder holds. Returns the folder."""
    if "resume" in given or config.resume:
        folder, config, record = recorder.reopen(config, given)
        choose_device(record["device"])
        recorder.same_images(record, config, data_folder(config))
        images, names = load_img_tensors(data_folder(config), config.img_size)
    else:
        images, names = load_img_tensors(data_folder(config), config.img_size)
        device = choose_device(config.device)
        precision = choose_precision(config, device, len(images))
        folder, record = recorder.begin(config, data_folder(config), device, precision, ROOT / "output")
    device, precision = record["device"], record["precision"]
    print(f"{folder}: {len(images)} images, {device}, {precision}")
    metrics, histories = {}, {}
    for start in config.starts:
        model = ABP(config, images, start, device, precision, names)
        one = recorder.Recorder(model, folder / start)
        recorder.update_record(folder, record, config)       # after the checkpoint was found to be of this run
        one.train()
        metrics[start], histories[start] = one.finish(), model.history
        print(f"{folder / start}: PSNR {metrics[start]['psnr']:.2f} dB, {metrics[start]['seconds']:.0f} s")
    recorder.finish(folder, record, config, metrics, histories, ROOT / "output", model.net)
    return folder


if __name__ == "__main__":
    sys.exit(main())
