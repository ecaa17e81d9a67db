"""What a LaTeX report of a run reads: macros with its numbers, tables of settings and libraries, captions."""
import dataclasses
from pathlib import Path

from runs.files import half_way, write_atomic
from runs.latex import environment, escape, macro_name, macros, plain, tabular

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {              # what requirements.txt asks for, and what each is used for
    "torch": "tensors, automatic differentiation, layers of the network, Adam",
    "torchvision": "asked for by the course",
    "numpy": "arrays",
    "matplotlib": "figures",
    "pillow": "reading and writing images",
    "tqdm": "progress on the screen",
    "scipy": "statistical tests, distances between pixels, Procrustes alignment",
    "scikit-learn": "PCA, factor analysis, isotonic and logistic regression",
    "scikit-image": "structural similarity",
    "arviz-stats": "effective sample sizes and R-hat of chains",
}

METRICS = {                # key of metrics.json: (name, format)
    "psnr": ("PSNR [dB]", ".2f"),
    "mse": ("MSE", ".5f"),
    "loss": ("loss (Eq. 7)", ".1f"),
    "z_std": ("std of z", ".2f"),
    "z_mean_square": ("mean of z²", ".2f"),
    "sample_nearest_psnr": ("samples: PSNR to nearest image [dB]", ".2f"),
    "sample_nearest_psnr_p10": ("the same, 10th percentile [dB]", ".2f"),
    "sample_saturated": ("samples: fraction of saturated pixels", ".4f"),
    "data_saturated": ("images: fraction of saturated pixels", ".4f"),
    "epochs": ("epochs", "d"),
    "seconds": ("training time [s]", ".0f"),
}
HIDDEN_METRICS = {         # the same, of a run with a mask
    "hidden_mae": ("hidden pixels: mean error of 0 to 255", ".2f"),
    "hidden_relative": ("hidden pixels: relative error", ".3f"),
}


def write(folder, metrics, histories, config, record):
    """metrics.tex, settings.tex, libraries.tex, captions.tex and macros.tex of a finished run.

    metrics, histories  {"warm": ..., "cold": ...} or one of the two; record as in config.json
    """
    write_atomic(folder / "metrics.md", _markdown_table(metrics))
    write_atomic(folder / "metrics.tex", metrics_table(metrics))
    write_atomic(folder / "settings.tex", settings_table(config))
    write_atomic(folder / "libraries.tex", libraries_table(record["versions"]))
    write_atomic(folder / "captions.tex", macros(captions(folder, metrics, config)))
    write_atomic(folder / "macros.tex", macros(run_macros(folder, config, record)
                                               | start_macros(folder, metrics, histories, config)))


def metrics_table(metrics):
    titles = ["", *(f"{start} start" for start in metrics)]
    return tabular(titles, [[name, *(format(m[key], form) for m in metrics.values())]
                            for key, (name, form) in table_rows(metrics)])


def settings_table(config):
    """Every option, its value (bold where it is not the default) and its meaning; needs array, booktabs."""
    rows = [" & ".join((rf"\texttt{{{escape(f.name)}}}", _setting(f, getattr(config, f.name)),
                        escape(f.metadata["meaning"]))) + r" \tabularnewline"
            for f in dataclasses.fields(config)]
    column = r">{\raggedright\arraybackslash}p{%s\linewidth}"
    head = r"option & value & meaning \tabularnewline"
    return environment(rf"@{{}}l{column % 0.14}{column % 0.6}@{{}}",
                       [r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])


def _setting(field, value):
    text = option_text(value)
    return text if value == field.default else rf"\textbf{{{text}}}"


def option_text(value):
    """The value of an option as LaTeX: texts, which may be long paths, or plain numbers."""
    if isinstance(value, str):
        return escape(value or "none", breakable=True)
    return plain(value) if isinstance(value, float) else str(value)


def libraries_table(versions):
    rows = [[name, versions[name], LIBRARIES.get(name, "")] for name in LIBRARIES if name in versions]
    rows.insert(0, ["Python", versions["python"], "the language"])
    return tabular(["library", "version", "used for"], rows, [True] * 3)


def run_macros(folder, config, record):
    """Of the whole run: {"runName": ..., "nImages": ..., "optionNEpochs": ..., and so on: every option}."""
    folder = Path(folder).resolve()
    name = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    values = {"runName": escape(name.as_posix(), breakable=True), "nImages": str(len(record["images"])),
              "chosenSampler": config.chosen_sampler,
              "machine": escape(record.get("machine", "a processor whose name was not recorded")),
              "computedOn": record["device"], "arithmetic": record["precision"],
              "threads": str(record["threads"])}
    return values | {macro_name("option", f.name): option_text(getattr(config, f.name))
                     for f in dataclasses.fields(config)}


def start_macros(folder, metrics, histories, config):
    """Of each start: {"warmPsnr": ..., and so on: every key of metrics.json}, plain numbers.

    Beside them, of the log: passes, network passes per image in all; accept and step of the last epoch; and
    halfEpoch with halfFile, the epoch and picture of reconstructions half-way, where there is one.
    """
    forms = {key: form for key, (_, form) in table_rows(metrics)} | {"n_parameters": ","}
    values = {}
    for start, m in metrics.items():
        last, passes = histories[start][-1], sum(row["passes"] for row in histories[start])
        numbers = {macro_name(start, key): plain(value, forms.get(key, ".4g" if value % 1 else ".0f"))
                   for key, value in m.items()}
        numbers |= {f"{start}Passes": f"{passes:.0f}", f"{start}Accept": f"{last['accept']:.2f}",
                    f"{start}Step": plain(last["step"], ".3g")}
        if half := half_way(folder / start / "epochs", config.n_epochs):
            numbers |= {f"{start}HalfEpoch": str(half[0]), f"{start}HalfFile": half[1].name}
        values |= numbers
    if len(metrics) == 2:
        psnr = [float(values[f"{start}Psnr"]) for start in metrics]
        values["psnrGap"] = f"{abs(psnr[0] - psnr[1]):.2f}"
    return values


def captions(folder, metrics, config):
    """The caption of each figure of a run: {"warmReconCaption": ..., "warmColdReconCaption": ...}."""
    values = {macro_name(start, name, "caption"): f"{text}; {start} start."
              for start, m in metrics.items() for name, text in _start_captions(m, config).items()}
    if len(metrics) == 2:
        ends = f"after {config.n_epochs} epochs"
        halves = [half_way(folder / start / "epochs", config.n_epochs) for start in metrics]
        if None not in halves:
            middle = " and ".join(dict.fromkeys(str(epoch) for epoch, _ in halves))
            ends = f"after {middle} epochs (above) and {ends} (below)"
        sides = "warm start left, cold start right"
        values |= {
            "warmColdReconCaption": f"Reconstructions {ends}: {sides}.",
            "warmColdSamplesCaption": f"Random samples: {sides}.",
            "warmColdInterpCaption": f"Generated images over the latent plane: {sides}.",
            "warmColdLossCaption": "Loss (Eq.~7, logarithmic) and PSNR of every epoch, warm and cold start.",
        }
    return values


def _start_captions(m, config):
    d, cells = f"{m['panel_range']:.2g}", config.ninterp
    corner = f"$z = (-{d}, {d})$" if config.nz > 1 else f"$z = -{d}$"
    plane = "$z_1$ grows to the right" + (" and $z_2$ upwards" if config.nz > 1 else "") + (
        ", the other coordinates are $0$" if config.nz > 2 else "")
    masked = "hidden_mae" in m
    recon = ("Training images as seen, hidden pixels grey, below each the reconstruction $g(z)$ at its "
             "inferred $z$ and the whole image" if masked else
             "Training images and, below each, the reconstruction $g(z)$ at its inferred $z$")
    where = " of visible pixels" if masked else ""
    return {
        "recon": f"{recon}; {m['epochs']} epochs, PSNR{where} {m['psnr']:.1f} dB",
        "samples": f"{m['n_samples']} random samples $g(z)$, $z \\sim N(0, {config.prior_sigma:g}^2 I)$",
        "interp": f"Generated images on a grid of {cells} values from $-{d}$ to ${d}$ along each axis; "
                  f"{plane}; the top left cell is {corner}. $d = {d}$ is the 95th percentile of $|z_k|$ "
                  "over the training images, held between 1 and 3 prior standard deviations",
        "loss": f"Loss of Eq.~7 at $\\sigma = {config.mse_sigma:g}$ and PSNR over epochs",
        "latents": "The training images at their inferred $z$; circles at 1, 2 and 3 standard deviations "
                   "of the prior",
    }


def table_rows(metrics):
    """METRICS, and those of hidden pixels where there are any: (key, (name, format))."""
    masked = any("hidden_mae" in m for m in metrics.values())
    return (METRICS | HIDDEN_METRICS if masked else METRICS).items()


def _markdown_table(metrics):
    lines = ["| | " + " | ".join(f"{start} start" for start in metrics) + " |",
             "|---|" + "---:|" * len(metrics)]
    for key, (name, form) in table_rows(metrics):
        lines.append(f"| {name} | " + " | ".join(format(m[key], form) for m in metrics.values()) + " |")
    return "\n".join(lines) + "\n"
