"""The evaluation of one trained start, warm or cold: tables and figures in its folder."""
import torch
from skimage.metrics import structural_similarity

from evaluation import chains, likelihood, pictures, plane
from evaluation.likelihood import Joint
from evaluation.modes import midpoints
from inference.measures import generate, mean_squared_error, panel_range, psnr, sample_images
from runs.tables import write_tables
from utils import save_recon

ZOOM_STDS, ZOOM_CELLS, MOST_ZOOMS = 4.0, 24, 2
STRETCH_CELLS, STRETCH_REACH = 32, 3.0
SHARE = 0.001                  # fraction of the mass, below which a mode is not drawn
# Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural
# similarity, 2004: a Gaussian window of 11 x 11 pixels, std 1.5; no Bessel's correction
WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
RECON_HEADS = {"image": "image", "mse": "MSE", "psnr": "PSNR [dB]", "ssim": "SSIM"}
RECON_FORMS = {"mse": ".5f", "psnr": ".2f", "ssim": ".3f"}
CHAIN_HEADS = {"acceptance": "acceptance", "step": "step", "ess": "bulk ESS",
               "ess_per_1000_passes": "ESS per 1000 passes", "rhat": "R-hat",
               "mean_gap": "mean: gap in posterior stds", "std_ratio": "std over quadrature's",
               "stuck": "stuck chains", "mode_1": "best mode: z_1", "mode_2": "best mode: z_2"}
CHAIN_FORMS = {"acceptance": ".2f", "step": ".3g", "ess": ".0f", "ess_per_1000_passes": ".1f",
               "rhat": ".3f", "mean_gap": ".3f", "std_ratio": ".3f"}
# of the summary, after those of metrics.json: (label, format)
QUANTITIES = {
    "ssim": ("SSIM", ".3f"),
    "samples_used": ("fraction of images that are nearest to a sample", ".0%"),
    "inside": ("fraction of images within the 95 % disk", ".0%"),
    "ks": ("Kolmogorov-Smirnov distance of |z|² from χ²", ".3f"),
    "ks_p": ("p-value of that distance", ".2g"),
    "tears": ("tears: 95th percentile of steps over the median", ".1f"),
    "ml_sigma": ("ML estimate of σ", ".4f"),
    "log_p": ("log p at the run's σ, mean [nats]", ".0f"),
    "log_p_ml": ("log p at ML σ, mean [nats]", ".0f"),
    "log_p_error": ("error estimate of log p, greatest [nats]", ".2g"),
    "bits_ml": ("bits per dimension at ML σ", ".3f"),
    "sampling_agrees": ("fraction of images: importance sampling within 2 std errors", ".0%"),
    "several_modes": ("fraction of images with more than one mode", ".0%"),
    "acceptance": ("chains of the run's sampler: acceptance, mean", ".2f"),
    "ess": ("bulk ESS per 1000 passes, median", ".1f"),
    "rhat": ("R-hat, median", ".3f"),
    "rhat_above": ("fraction of images with R-hat above 1.05", ".0%"),
    "stuck": ("fraction of chains that are stuck", ".0%"),
}


def similarity(recon, images):
    """Structural similarity of each image, mean of the colours: (n, 3, S, S) twice -> (n,)."""
    pairs = zip(recon.double().numpy(), images.double().numpy(), strict=True)
    values = [structural_similarity(a, b, channel_axis=0, data_range=2, **WINDOW) for a, b in pairs]
    return torch.tensor(values, dtype=torch.float64)


def reconstruction_rows(recon, images, names, mask=None):
    """Rows of a table: mse, psnr [dB] and ssim of each image, and their means in a last row.

    recon, images  (n, 3, S, S) in [-1, 1] on the CPU, S at least 11, the window of SSIM
    mask           (n, 1, S, S) or None: mse and psnr are of visible pixels; ssim is None, since
                   its windows mix visible and hidden pixels
    """
    columns = {"mse": mean_squared_error(recon, images, mask), "psnr": psnr(recon, images, mask)}
    if mask is None:
        columns["ssim"] = similarity(recon, images)
    rows = [{"image": name} | {key: values[i].item() for key, values in columns.items()}
            for i, name in enumerate(names)]
    rows.append({"image": "mean"} | {key: values.mean().item() for key, values in columns.items()})
    return [row | {"ssim": row.get("ssim")} for row in rows]


class Start:
    """A trained start: config, net (on any device) and z as from `abp.load_run`, and its images.

    Tables and figures go to folder; search is the dtype of chains and searches.
    """

    def __init__(self, config, net, z, images, names, folder, search, mask, n_steps, n_shown):
        self.config, self.net, self.z, self.images, self.names = config, net, z, images, names
        self.folder, self.search, self.mask, self.n_steps = folder, search, mask, n_steps
        self.shown = torch.linspace(0, len(images) - 1, min(n_shown, len(images))).round().long()
        self.recon = generate(net, z.to(next(net.parameters()).device))
        self.summary = {}                                  # {key of QUANTITIES: value}

    def _tables(self, name, rows, heads=None, forms=None):
        write_tables(self.folder, name, rows, heads, forms)

    def _sum_up(self, **values):
        self.summary |= {key: value for key, value in values.items() if value is not None}

    def reconstruction(self):
        rows = reconstruction_rows(self.recon, self.images, self.names, self.mask)
        self._tables("reconstruction", rows, RECON_HEADS, RECON_FORMS)
        self._sum_up(ssim=rows[-1]["ssim"])

    def samples(self):
        samples = sample_images(self.net, self.config)
        rows, place = plane.nearest(samples, self.images, self.names)
        self._tables("nearest", rows, {"psnr": "PSNR [dB]"}, {"psnr": ".2f"})
        shown = slice(pictures.N_NEAREST)
        save_recon({"sample": samples[shown], "nearest": self.images[place[shown]]},
                   self.folder / "nearest.png")
        self._sum_up(samples_used=len(place.unique()) / len(self.images))

    def likelihood(self):
        self.joint = Joint(self.net, self.images, self.config.prior_sigma, self.search, self.mask)
        self.grid, self.found, sigma_ml, images = likelihood.likelihood(
            self.joint, self.z, self.names, self.config.mse_sigma)
        mean = likelihood.mean_row(images)
        self._tables("likelihood", [*images, mean], likelihood.HEADS, likelihood.FORMS)
        within = [abs(row["sampling_gap"]) <= 2 * row["sampling_error"] for row in images]
        self._sum_up(
            ml_sigma=sigma_ml, log_p=mean["log_p"], log_p_ml=mean["log_p_ml"],
            log_p_error=max(mean["error"], mean["error_ml"]), bits_ml=mean["bits_ml"],
            sampling_agrees=sum(within) / len(within),
            several_modes=sum(row["modes"] > 1 for row in images) / len(images))

    def chains(self):
        """Chains of the run's sampler for all images, of every sampler for the shown images."""
        config, sigma, found = self.config, self.config.mse_sigma, self.found
        everything, n_adapt = torch.arange(len(self.images)), self.n_steps // 2
        starts = chains.dispersed_starts(self.joint, everything, sigma, self.z, config.seed)
        run = chains.sample(self.joint, everything, sigma, config.chosen_sampler, starts, n_adapt,
                            self.n_steps, config.langevin_step_size)
        rows = chains.diagnose(run, self.joint, found, sigma, everything, self.names)
        self._tables("chains", rows, CHAIN_HEADS, CHAIN_FORMS)
        column = {key: torch.tensor([float(row[key]) for row in rows]) for key in CHAIN_HEADS}
        self._sum_up(
            acceptance=column["acceptance"].mean().item(), rhat=column["rhat"].median().item(),
            ess=column["ess_per_1000_passes"].median().item(),
            rhat_above=(column["rhat"] > 1.05).double().mean().item(),
            stuck=column["stuck"].sum().item() / starts[..., 0].numel())
        # every sampler on the shown images, all chains from the run's z
        starts = self.z[self.shown].repeat(chains.N_CHAINS, 1, 1)
        runs, table, means = {}, [], []
        for name in chains.SAMPLERS:
            runs[name] = chains.sample(self.joint, self.shown, sigma, name, starts, n_adapt,
                                       self.n_steps)
            rows = chains.diagnose(runs[name], self.joint, found, sigma, self.shown, self.names)
            table += [{"sampler": name} | row for row in rows]
            mean = likelihood.mean_row(rows)
            means.append({"sampler": name} | {key: mean[key] for key in list(CHAIN_HEADS)[:-2]})
        self._tables("samplers", table, CHAIN_HEADS, CHAIN_FORMS)
        self._tables("samplers_mean", means, CHAIN_HEADS, CHAIN_FORMS)
        self._draw_posteriors(runs)

    def _draw_posteriors(self, runs):
        sigma, grid, maps = self.config.mse_sigma, self.grid, []
        reach = grid.z.max().item() + grid.area**0.5 / 2
        for k, i in enumerate(self.shown.tolist()):
            modes = self.found.modes.of(i)
            share = (modes.log_mass - modes.log_mass.logsumexp(0)).exp()
            drawn = share.argsort(descending=True)[:MOST_ZOOMS]
            zooms = [self._zoom(i, modes.z[m], modes.factor[m])
                     | {"z": modes.z[m].tolist(), "share": share[m].item()}
                     for m in drawn.tolist() if share[m] >= SHARE]
            index = torch.full((len(grid.z),), i)
            values = self.joint.log_joint(grid.squared_error[i], index, grid.z, sigma)
            maps.append({
                "title": self.names[i], "image": self.images[i], "reach": reach,
                "z": self.z[i].tolist(), "plane": values.view(grid.cells, grid.cells).T,
                "modes": zooms,
                "paths": {name: run.draws[:, :, k].numpy() for name, run in runs.items()}})
        pictures.plot_maps(maps, self.folder)
        pictures.plot_chains(maps, self.folder)

    def _zoom(self, i, centre, factor):
        """log p(z, I_i) on a fine grid around a mode, rows from the lowest z_2."""
        half = ZOOM_STDS * (factor @ factor.T).diagonal().sqrt()
        z = centre + midpoints(1.0, ZOOM_CELLS) * half
        index, joint = torch.full((len(z),), i), self.joint
        values = joint.log_joint(joint.squared_error(index, z), index, z, self.config.mse_sigma)
        (left, low), (right, high) = (centre - half).tolist(), (centre + half).tolist()
        return {"zoom": values.view(ZOOM_CELLS, ZOOM_CELLS).T, "extent": (left, right, low, high)}

    def plane(self):
        """The latent plane: the images' latents, and where the generator tears."""
        sigma = self.config.prior_sigma
        rows, inside = plane.latents(self.z, self.names, sigma)
        self._tables("latents", rows, {"z_square": "|z|²"})
        self._sum_up(**inside, tears=plane.tears(self.net, sigma))
        reach, d = STRETCH_REACH * sigma, panel_range(self.z, sigma)
        area = plane.stretch(self.net, reach, STRETCH_CELLS)
        pictures.plot_plane(self.z.numpy(), area, reach, d, sigma, self.folder)
