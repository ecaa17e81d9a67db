"""Tables, numbers and pictures of a finished run, as a LaTeX report reads them."""
import dataclasses
import io
import os
import re
from pathlib import Path

import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from runs.files import ROOT, half_way, write_atomic
from runs.latex import environment, escape, macro_name, macros, number, tabular
from runs.tables import write_tables

METRICS = {                # key of metrics.json: (label, format)
    "psnr": ("PSNR [dB]", ".2f"),
    "mse": ("MSE", ".5f"),
    "loss": ("loss (Eq. 7)", ".1f"),
    "z_std": ("std of z", ".2f"),
    "z_mean_square": ("mean of z²", ".2f"),
    "sample_nearest_psnr": ("samples: PSNR to nearest image [dB]", ".2f"),
    "sample_nearest_psnr_p10": ("samples: 10th percentile of it [dB]", ".2f"),
    "sample_saturated": ("samples: fraction of saturated pixels", ".4f"),
    "data_saturated": ("images: fraction of saturated pixels", ".4f"),
    "passes": ("network passes per image", ".0f"),
    "epochs": ("epochs", "d"),
    "seconds": ("training time [s]", ".0f"),
}
HIDDEN_METRICS = {         # the same, of a run with a mask
    "hidden_mae": ("hidden pixels: mean error of 0 to 255", ".2f"),
    "hidden_relative": ("hidden pixels: relative error", ".3f"),
}
LIBRARIES = ("torch", "torchvision", "numpy", "matplotlib", "pillow", "tqdm", "scipy",
             "scikit-learn", "scikit-image", "arviz-stats")         # of requirements.txt
PATHS = ("data", "out", "resume")      # options that the table of settings leaves out
PICTURES = {"recon": 1300, "samples": 900, "interp": 900}      # width of the JPEG, 200 dpi in print
QUALITY = 90         # of the JPEG, so that a report of the default run stays below 5 MB


def write(folder, metrics, config, record, net):
    """Write metrics.* and the folder report/ of a finished run.

    metrics  {"warm": dict, "cold": dict} or one of the two, as in metrics.json
    config   a dataclass instance;  record  as in config.json
    net      any module z (n, nz) -> images, on any device
    """
    out = folder / "report"
    out.mkdir(exist_ok=True)
    write_atomic(out / "settings.tex", settings_table(config))
    write_atomic(out / "layers.tex", layers_table(net, torch.zeros(1, config.nz)))
    write_atomic(out / "macros.tex", macros(run_macros(folder, metrics, config, record)))
    for start in metrics:
        for name, width in PICTURES.items():
            save_jpeg(folder / start / f"{name}.png", out / f"{start}_{name}.jpg", width)
        if half := half_way(folder / start / "epochs", config.n_epochs):
            save_jpeg(half[1], out / f"{start}_recon_half.jpg", PICTURES["recon"] // 2)
    write_tables(folder, "metrics", *metrics_rows(metrics))         # the last file of a run


def write_evaluation(out, starts, n_epochs):
    """Write what report.tex needs besides the tables and figures of the evaluation folder `out`."""
    for start in starts:
        save_jpeg(out / start / "nearest.png", out / start / "nearest.jpg", PICTURES["recon"])
    write_atomic(out / "macros.tex", macros({"evaluatedEpochs": str(n_epochs)}))


def point_report_to(folder, parent):
    """Write parent/latest.tex, the run that report.tex reads, if a folder in `parent` is a run of
    both starts and no character of its name is special in TeX.
    """
    folder, parent = Path(folder).resolve(), Path(parent).resolve()
    path = os.path.relpath(folder, parent.parent / "report").replace(os.sep, "/")
    both = all((folder / start / "metrics.json").is_file() for start in ("warm", "cold"))
    if both and folder.parent == parent and re.fullmatch(r"[\w ./+=,-]+", path):
        write_atomic(parent / "latest.tex", rf"\edef\run{{\detokenize{{{path}}}}}" + "\n")


def save_jpeg(source, target, width):
    """A picture as a JPEG of at most `width` pixels, without subsampling of colours."""
    with Image.open(source) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    write_atomic(target, buffer.getvalue())


# ---- tables

def metrics_rows(metrics):
    """Rows (a column per start), titles and formats of the metrics, for `write_tables`."""
    masked = any("hidden_mae" in m for m in metrics.values())
    shown = METRICS | HIDDEN_METRICS if masked else METRICS
    rows = [{"quantity": text} | {f"{start} start": m[key] for start, m in metrics.items()}
            for key, (text, _) in shown.items()]
    return rows, {"quantity": ""}, None, [form for _, form in shown.values()]


def settings_table(config):
    """The options of a run in three columns; values in bold differ from the defaults."""
    cells = []
    for field in dataclasses.fields(config):
        text = option_text(getattr(config, field.name))
        if getattr(config, field.name) != field.default:
            text = rf"\textbf{{\boldmath {text}}}"
        if field.name not in PATHS:
            cells.append(rf"\texttt{{{escape(field.name)}}} & {text}")
    cells += ["& "] * (-len(cells) % 3)
    height = len(cells) // 3
    rows = [" & ".join(cells[k::height]) for k in range(height)]
    column = r"l>{\raggedright\arraybackslash}p{0.12\linewidth}"
    return environment(column * 3, " & ".join(["option & value"] * 3), rows)


def option_text(value):
    """The value of an option as LaTeX; a path in the repository without the folders above it."""
    if isinstance(value, str):
        return escape(value.removeprefix(f"{ROOT}/") or "none", breakable=True)
    return number(format(value, "g") if isinstance(value, float) else str(value))


def layers_table(net, z):
    """The layers of any module, in the order in which they map z (1, nz) to an image.

    A layer without parameters that keeps the shape, such as a nonlinearity, joins the row before.
    Parameters of modules with children are in a separate row.
    """
    rows, seen = [], set()

    def record(layer, _, output):
        if any(layer.children()):
            return
        own = [p for p in layer.parameters() if p not in seen]
        seen.update(own)
        shape = " × ".join(map(str, getattr(output, "shape", ())[1:]))
        name, kernel = type(layer).__name__, str(getattr(layer, "kernel_size", ""))
        if rows and not own and rows[-1][2] == shape:
            rows[-1][0] += f", {name}"
        else:
            rows.append([name, kernel, shape, f"{sum(p.numel() for p in own):,}"])

    with torch.no_grad(), register_module_forward_hook(record):
        net(z.to(next(net.parameters())))
    total = sum(p.numel() for p in net.parameters())
    if rest := total - sum(p.numel() for p in seen):
        rows.append(["other parameters", "", "", f"{rest:,}"])
    rows.append(["all layers", "", "", f"{total:,}"])
    return tabular(["layer", "kernel", "output", "parameters"], rows)


# ---- numbers

def run_macros(folder, metrics, config, record):
    """{name: LaTeX}: optionNEpochs, ... of options, warmPsnr, ... of metrics, and of the record."""
    versions = {"Python": record["versions"]["python"]} | {
        key: record["versions"][key] for key in LIBRARIES if key in record["versions"]}
    values = {"runName": option_text(Path(folder).resolve().as_posix()),
              "libraries": escape(", ".join(f"{key} {text}" for key, text in versions.items())),
              "nImages": str(len(record["images"])), "chosenSampler": config.chosen_sampler,
              "machine": escape(record["machine"]), "computedOn": record["device"],
              "arithmetic": record["precision"], "threads": str(record["threads"])}
    values |= {macro_name("option", field.name): option_text(getattr(config, field.name))
               for field in dataclasses.fields(config)}
    forms = {key: form for key, (_, form) in (METRICS | HIDDEN_METRICS).items()}
    for start, m in metrics.items():
        values |= {macro_name(start, key): number(format(value, forms.get(key, ".4g")))
                   for key, value in m.items()}
        if half := half_way(folder / start / "epochs", config.n_epochs):
            values[f"{start}HalfEpoch"] = str(half[0])
    return values
