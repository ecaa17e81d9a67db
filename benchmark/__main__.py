"""How fast and how good the samplers are: tables, measured in one run, everything in turns.

    python bench.py --data FOLDER                 all of it: about 20 minutes on two cores
    python bench.py --parts steps,layers          some of it; --help lists the parts

Machines are noisy: what is compared takes turns, medians are shown, and ratios within one run are what
counts. A network pass is one image through the generator: forward, backward to its latent, or backward to the
weights.
"""
import statistics
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import ConvTranspose2d as Deconv

from abp import ABP, ROOT, Config, choose_precision, data_folder
from benchmark import scaling
from benchmark.reference import PASSES, Reference
from evaluation.diagnostics import N_CHAINS, compare_with_grid, effective_samples, smmala_draws
from inference.posterior import Posterior, frozen
from inference.samplers import langevin, smmala
from runs.files import hash_images, read_json, write_atomic
from runs.options import UserError, check, exit_status, option, parse_args
from utils import load_img_tensors

CURVE = ROOT / "tests" / "reference_curve.json"     # the reference loop's PSNR by epoch, by reference.py
THRESHOLDS = (20, 23, 26, 29)                       # dB
TAPS = 16                                           # of a deconvolution


@dataclass(frozen=True)
class BenchConfig:
    data: str = option("data/drawn", "folder of images")
    parts: str = option("steps,layers,training,sampling,scaling", "what to measure, in this order")
    out: str = option("", "file for the tables, Markdown; none: the screen only")
    rounds: int = option(15, "rounds of each short measurement", 3, 1000)
    n_epochs: int = option(Config.n_epochs, "epochs of the training runs", 2, 10**5)
    n_steps: int = option(250, "steps of each sampler whose effective samples are counted", 20, 10**6)
    n_moments: int = option(1000, "steps of smmala whose moments are compared with a grid", 20, 10**6)
    img_size: int = option(128, "side of the images", 16, 512)
    seed: int = option(1, "seed", 0, 2**31 - 1)

    def __post_init__(self):
        check(self)
        for part in self.parts.split(","):
            if part not in PARTS:
                raise UserError(f"--parts must be some of {','.join(PARTS)}, not {part!r}")


# ------------------------------------------------------------------------------------------------- measuring

def median_seconds(ways, rounds):
    """Median seconds of each way, all in turns: {name: function} -> {name: seconds}. One round warms up."""
    taken = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def table(title, head, rows):
    def line(cells):
        return "| " + " | ".join(map(str, cells)) + " |"

    return "\n".join([f"### {title}", "", line(head), "|---" + "|---:" * (len(head) - 1) + "|",
                      *map(line, rows)]) + "\n"


def gemm(dtype, size=1536):
    """One large matrix product, the ceiling of the machine: (function, FLOPs)."""
    a = torch.randn(size, size).to(dtype)
    return lambda: a @ a, 2 * size**3


def deconv_flops(net):
    """FLOPs of one image through the deconvolutions, forward: a multiply and an add for each weight met."""
    side, total = 4, 0
    for m in net.modules():
        if isinstance(m, torch.nn.ConvTranspose2d):
            total += 2 * m.in_channels * m.out_channels * TAPS * side**2
            side *= 2
    return total


def plain(net):
    """A generator as public code would run it: torch's deconvolutions, contiguous weights, float32."""
    for i, layer in enumerate(net.deconv):
        if isinstance(layer, Deconv):
            net.deconv[i] = torch.nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1)
    return net


# -------------------------------------------------------------------------------------------------- the parts

def steps(config, images, precision, session):
    """a. Langevin and learning steps against the reference loop and the machine's ceiling.

    A Langevin step is one evaluation of what it needs: chains of k steps make k + 1.
    """
    tables = []
    for n in (11, 24):
        x = images[torch.arange(n) % len(images)].contiguous(memory_format=torch.channels_last)
        model = ABP(Config(img_size=config.img_size), x, precision=precision)
        posterior, index = model.posterior(x), torch.arange(n)
        public = Reference(x)
        same = Reference(x, plain(ABP(model.config, x).net))
        (fp32, flops), (bf16, _) = gemm(torch.float32), gemm(torch.bfloat16)
        seconds = median_seconds({
            "GEMM fp32": fp32, "GEMM bf16": bf16,
            "reference, public generator": lambda r=public: r.langevin_step(r.z),
            "reference, our generator": lambda r=same: r.langevin_step(r.z),
            "ours": lambda p=posterior, z=model.z: langevin(p.energy, z, 4, 0.01),
            "ours, smmala": lambda p=posterior, z=model.z: smmala(p.local, z, 4),
            "reference learning, public generator": public.learning_step,
            "reference learning, our generator": same.learning_step,
            "ours learning": lambda m=model, i=index: m.learn(i, 0.0),
        }, config.rounds)
        for name in ("ours", "ours, smmala"):
            seconds[name] /= 5                                   # 4 steps make 5 evaluations
        ceiling = {"fp32": flops / seconds.pop("GEMM fp32"), "bf16": flops / seconds.pop("GEMM bf16")}
        rows = []
        for name, s in seconds.items():
            learns, ours = "learning" in name, name.startswith("ours")
            net = public.net if "public" in name else same.net
            passes = 3 if learns else 3 if "smmala" in name else 2
            rate = n * passes * deconv_flops(net) / s
            base = seconds[f"reference{' learning' if learns else ''}, public generator"]
            dtype = precision if ours else "fp32"
            rows.append([name, f"{1e3 * s:.1f}", f"{1 / s:.1f}", f"{n * passes / s:.0f}", f"{base / s:.2f}",
                         f"{rate / 1e12:.3f}", f"{100 * rate / ceiling[dtype]:.0f} % of {dtype}"])
        title = (f"Steps on {n} images of {config.img_size} px; GEMM ceiling in TFLOP/s: "
                 f"{ceiling['fp32'] / 1e12:.2f} fp32, {ceiling['bf16'] / 1e12:.2f} bf16")
        head = ["step (one evaluation)", "ms", "steps/s", "passes/s", "times the reference", "TFLOP/s",
                "of the GEMM ceiling"]
        tables.append(table(title, head, rows))
    return tables


def layers(config, images, precision, session):
    """Where the time goes, layer by layer: ours against torch's own deconvolution."""
    n, dtype = 24, torch.bfloat16 if precision == "bf16" else torch.float32
    net = ABP(Config(img_size=config.img_size), images).net
    h, rows = torch.randn(n, net.deconv[0].in_channels, 4, 4), []
    product, flops = gemm(dtype)
    for layer in net.deconv:
        x = h.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_(True)
        with torch.no_grad():
            h = layer(h)
        if not isinstance(layer, Deconv):
            continue
        theirs = torch.nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1)
        theirs.to(dtype).to(memory_format=torch.channels_last)
        work = 2 * n * layer.in_channels * layer.out_channels * TAPS * x.shape[2] ** 2
        size = x.element_size() * (x.numel() + h.numel() + layer.weight.numel())
        grad = torch.randn_like(h).to(dtype).contiguous(memory_format=torch.channels_last)
        inference = frozen(net).to(dtype).deconv[list(net.deconv).index(layer)]

        def both(deconv, x=x, grad=grad):
            torch.autograd.grad(deconv(x), [x, *deconv.parameters()], grad)

        s = median_seconds({
            "gemm": product, "forward": lambda x=x, f=inference: f(x.detach()),
            "latent": lambda x=x, f=inference, g=grad: torch.autograd.grad(f(x), x, g),
            "learn": lambda f=layer: both(f), "theirs": lambda f=theirs: both(f)}, config.rounds)
        ceiling = flops / s["gemm"]
        rows.append([f"{layer.in_channels} to {layer.out_channels}, {x.shape[2]} px", f"{work / 1e9:.2f}",
                     f"{work / size:.0f}",
                     *(f"{1e3 * s[k]:.1f}" for k in ("forward", "latent", "learn", "theirs")),
                     *(f"{100 * f * work / s[k] / ceiling:.0f} %" for k, f in (("latent", 2), ("learn", 3)))])
    head = ["layer", "GFLOP forward", "FLOP per byte", "forward ms", "and to the latent ms",
            "and to the weights ms", "the same, torch's ms", "of the GEMM ceiling, latent", "weights"]
    return [table(f"Deconvolutions of {n} images, {precision}", head, rows)]


def training(config, images, precision, session):
    """b. Passes and seconds to each PSNR, for each sampler at equal passes, and for the reference loop."""
    base = Config(img_size=config.img_size, n_epochs=config.n_epochs, seed=config.seed)
    steps_of = {"smmala": 1, "mala": 2, "langevin": 2}          # 6 passes an epoch each
    models, loops = {}, {}
    for name, k in (steps_of | {"smmala, cold": 1}).items():
        options = replace(base, sampler=name.split(",")[0], langevin_num_steps=k)
        start = "cold" if "cold" in name else "warm"
        models[name] = ABP(options, images, start, precision=precision)
        loops[name] = InTurn(models[name].train())
    reference, reference_seconds = Reference(images), []
    for epoch in range(config.n_epochs):
        for loop in loops.values():
            loop.next()
        if epoch in (1, config.n_epochs // 2, config.n_epochs - 1):
            began = time.perf_counter()
            reference.epoch()
            reference_seconds.append(time.perf_counter() - began)
    rows = []
    for name, model in models.items():
        history = [(r["psnr"], r["passes"], r["seconds"]) for r in model.history]
        marks = [_reached(history, d) for d in THRESHOLDS]
        rows.append([f"{name}, {steps_of.get(name, 1)} steps", *marks, f"{model.history[-1]['psnr']:.2f}",
                     f"{model.history[-1]['z_mean_square']:.2f}", f"{model.history[-1]['accept']:.2f}"])
    per_epoch = statistics.median(reference_seconds)
    note = f"\nThe reference loop takes {per_epoch:.1f} s an epoch, measured in turns with the others. "
    curve = read_json(CURVE)
    if (curve["images"], curve["img_size"]) == (hash_images(data_folder(config)), config.img_size):
        history = [(psnr, PASSES, per_epoch) for psnr in curve["psnr"]]
        rows.append(["reference loop", *(_reached(history, d) for d in THRESHOLDS),
                     f"{curve['psnr'][-1]:.2f} (epoch {len(history)})", "", ""])
        note += f"Its other seconds are extrapolated: these, times the epochs in {CURVE.relative_to(ROOT)}.\n"
    else:
        note += f"Its PSNR on these images is not known: {CURVE.relative_to(ROOT)} was recorded on others.\n"
    head = ["sampler", *(f"{d} dB: passes an image / s" for d in THRESHOLDS), "PSNR at the end", "mean z²",
            "accept"]
    session["model"] = models["smmala"]
    title = f"Training on {len(images)} images, {config.n_epochs} epochs, all in turns"
    return [table(title, head, rows) + note]


def _reached(history, threshold):
    passes = seconds = 0
    for psnr, p, s in history:
        passes, seconds = passes + p, seconds + s
        if psnr >= threshold:
            return f"{passes:,.0f} / {seconds:,.0f}"
    return f"not in {passes:,.0f} / {seconds:,.0f}"


class InTurn:
    """A generator function that meets the random numbers it would meet if it ran alone from here."""

    def __init__(self, loop):
        self.loop, self.state = loop, torch.get_rng_state()

    def next(self):
        torch.set_rng_state(self.state)
        value = next(self.loop)
        self.state = torch.get_rng_state()
        return value


def trained(config, images, precision, session):
    """The smmala model of the training part, or a new one."""
    if "model" not in session:
        print("training a generator ...", flush=True)
        options = Config(img_size=config.img_size, n_epochs=config.n_epochs, seed=config.seed)
        session["model"] = ABP(options, images, precision=precision)
        for _ in session["model"].train():
            pass
    return session["model"]


def sampling(config, images, precision, session):
    """c. Effective samples per pass of each sampler at a trained generator, and their moments on a grid."""
    model = trained(config, images, precision, session)
    x = images.contiguous(memory_format=torch.channels_last)
    posterior, mse_sigma = model.posterior(x), model.config.mse_sigma
    rows, (z, step) = effective_samples(posterior, model.z, config.n_steps)
    head = ["sampler", "step size (median)", "acceptance", "passes a step",
            "ESS per 1,000 passes: median image", "worst image", "times Eq. 6"]
    title = f"Bulk effective samples, {N_CHAINS} chains of {config.n_steps} steps an image"
    tables = [table(title, head, rows)]
    exact = Posterior(frozen(model.net), x, mse_sigma, model.config.prior_sigma)
    head = ["image", "std of z_1", "std of z_2", "ESS", "mean: chains - grid", "its standard error",
            "std: chains / grid", "mean: fp32 grid - grid", "std: fp32 grid / grid"]
    rows = compare_with_grid(posterior, exact, smmala_draws(posterior, z, step, config.n_moments))
    title = "smmala's moments against a fine grid, in posterior stds, worst coordinate"
    return [*tables, table(title, head, rows)]


def growth(config, images, precision, session):
    """d. How seconds and memory grow with images and pixels."""
    by_count = [(n, scaling.SIDE) for n in scaling.COUNTS]
    by_size = [(24, size) for size in scaling.SIZES]
    shapes = dict.fromkeys(by_count + by_size)
    seconds = {shape: scaling.epoch_seconds(*shape, precision, epochs=2) for shape in shapes}
    memory = {shape: scaling.peak_megabytes(*shape, precision) for shape in shapes}
    rows = [[f"{n} images of {size} px", f"{seconds[n, size]:.2f}", memory[n, size]] for n, size in seconds]
    fits = []
    for what, chosen, x in ((f"images of {scaling.SIDE} px", by_count, scaling.COUNTS),
                            ("pixels of 24 images", by_size, [size**2 for size in scaling.SIZES])):
        for unit, values in (("seconds", seconds), ("peak MB", memory)):
            p, fixed = scaling.power_fit(x, [values[shape] for shape in chosen])
            fits.append([f"{unit} with {what}", f"{p:.2f}", f"{fixed:.2f}"])
    return [table("An epoch of the default configuration", ["what", "seconds", "peak MB"], rows),
            table("Fits of fixed part + b x^p", ["of", "p", "fixed part"], fits)]


PARTS = {"steps": steps, "layers": layers, "training": training, "sampling": sampling, "scaling": growth}


def main(argv=None):
    """Run the command line -> exit status."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)   # torch's own

    def action():
        config, _ = parse_args(BenchConfig, argv, description=__doc__, prog="bench.py")
        images, _ = load_img_tensors(data_folder(config), config.img_size)
        precision = choose_precision(Config(img_size=config.img_size), "cpu", len(images))
        threads = torch.get_num_threads()
        print(f"{len(images)} images, {precision}, {threads} threads, torch {torch.__version__}\n")
        done, session = [], {}
        for part in config.parts.split(","):
            for text in PARTS[part](config, images, precision, session):
                print(text, flush=True)
                done.append(text)
            if config.out:
                write_atomic(Path(config.out), "\n".join(done))

    return exit_status("bench.py", action)


if __name__ == "__main__":
    sys.exit(main())
