"""What a LaTeX report reads of an evaluation: macros with its numbers, captions of its figures."""
from evaluation.pictures import DEPTH, N_NEAREST, ZOOM_DEPTH
from evaluation.start import MOST_ZOOMS, QUANTITIES, STRETCH_REACH, ZOOM_STDS
from runs.files import write_atomic
from runs.latex import macro_name, macros, plain

THE_RUNS = ("psnr", "mse")         # quantities for which the run has macros of the same names


def write(out, starts, linear_rows, factors_known):
    """macros.tex and captions.tex of an evaluation.

    out          the folder evaluation/;  starts {"warm": evaluation.start.Start, ...}, evaluated
    linear_rows  of linear.csv;  factors_known whether there is a factors.csv
    """
    config = next(iter(starts.values())).config
    values = {"evaluatedEpochs": str(config.n_epochs)}
    for start, one in starts.items():
        values |= {macro_name(start, key): plain(value, QUANTITIES[key][1]).rstrip("%")
                   for key, value in one.summary.items() if key not in THE_RUNS}
    for row in linear_rows:
        if row["model"] in ("PCA", "FA") and row["d"] == config.nz:           # as many dimensions as ABP
            name = row["model"].lower()
            values |= {f"{name}Psnr": f"{row['train_psnr']:.2f}", f"{name}Bits": f"{row['train_bits']:.3f}"}
    write_atomic(out / "macros.tex", macros(values))
    texts = {macro_name(start, name, "caption"): f"{text}; {start} start."
             for start, one in starts.items() for name, text in captions(one, factors_known).items()}
    if config.nz == 2:
        texts["likelihoodCaption"] = (
            "Bits per dimension of each image at the maximum-likelihood $\\sigma$, the images of each start "
            "sorted from the likeliest.")
    write_atomic(out / "captions.tex", macros(texts))


def captions(one, factors_known):
    """{figure: caption} of an evaluated start, without its full stop."""
    config = one.config
    values = {"nearest": f"The first {min(N_NEAREST, one.n_samples)} random samples and, below each, the "
                         "training image nearest to it in squared distance"}
    if factors_known:
        values["factors"] = (
            "The training images at their $z$, coloured by the factor \\emph{lion}; small arrows show the "
            "factor \\emph{turn}, long ones the directions in which the factors grow, by least squares")
    if config.nz != 2:
        return values
    return values | {
        "posteriorMaps": (
            f"$\\log p(z \\mid I)$ at $\\sigma = {config.mse_sigma:g}$ for {len(one.shown)} images, in nats "
            "below its greatest value. From the left: the image; the latent plane (colours logarithmic, to "
            f"{DEPTH:g} nats), its modes numbered; at most {MOST_ZOOMS} modes over $\\pm {ZOOM_STDS:g}$ of "
            f"their standard deviations (to {ZOOM_DEPTH:g} nats). Crosses: the $z$ of the run"),
        "chains": (
            f"Chains of each sampler from the run's $z$, {one.n_steps} steps after {one.n_steps // 2} of "
            "adaptation, over the posterior near its heaviest mode; a colour for each chain"),
        "latentPlane": (
            "Left: where the images sit, over the stretch $\\sqrt{\\det J^\\top J}$, $J = \\partial g / "
            f"\\partial z$, for $|z_k| < {STRETCH_REACH * config.prior_sigma:g}$; solid the disk that holds "
            "95\\,\\% of the prior, dashed the panel. Right: quantiles of $|z|^2$ over the prior's variance, "
            "against $\\chi^2_2$"),
    }
