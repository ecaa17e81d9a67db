"""Everything that is said about one trained start, warm or cold: tables and figures in its folder."""
import torch

from evaluation import chains, likelihood, pictures, plane, reconstruction
from evaluation.density import Joint
from inference.measures import N_SAMPLES, generate, panel_range, sample_images
from runs.tables import write_tables

ZOOM_STDS, ZOOM_CELLS, MOST_ZOOMS = 4.0, 24, 2
STRETCH_CELLS, STRETCH_REACH = 32, 3.0
SHARE = 0.001                  # of the mass, below which a mode is not drawn
CHAIN_HEADS = {"acceptance": "acceptance", "step": "step", "ess": "bulk ESS",
               "ess_per_1000_passes": "ESS per 1000 passes", "rhat": "R-hat",
               "mean_gap": "mean: gap in posterior stds", "std_ratio": "std over quadrature's",
               "stuck": "stuck chains"}
CHAIN_FORMS = {"acceptance": ".2f", "step": ".3g", "ess": ".0f", "ess_per_1000_passes": ".1f", "rhat": ".3f",
               "mean_gap": ".3f", "std_ratio": ".3f"}
QUANTITIES = {                 # of the summary: (name, format for the text of a report; shares in percent)
    "psnr": ("PSNR [dB]", ".2f"),
    "mse": ("MSE", ".5f"),
    "ssim": ("SSIM", ".3f"),
    "samples_saturated": ("samples: share of saturated pixels", ".5f"),
    "samples_power": ("samples: high-frequency power over the images'", ".2f"),
    "samples_nearest": ("samples: PSNR to the nearest image, mean [dB]", ".2f"),
    "samples_nearest_low": ("samples: the same, 10th percentile [dB]", ".2f"),
    "samples_nearest_high": ("samples: the same, 90th percentile [dB]", ".2f"),
    "samples_used": ("samples: share of images that are nearest to one of them", ".0%"),
    "occupancy": ("mean of |z|² / 2 over the prior's variance", ".2f"),
    "inside": ("share of images within the 95 % disk", ".0%"),
    "tears": ("tears: 95th percentile of steps over their median", ".1f"),
    "ml_sigma": ("ML estimate of σ", ".4f"),
    "log_p": ("log p at the run's σ, mean [nats]", ".0f"),
    "log_p_ml": ("log p at ML σ, mean [nats]", ".0f"),
    "log_p_error": ("error estimate of log p, greatest [nats]", ".2g"),
    "bits_ml": ("bits per dimension at ML σ", ".3f"),
    "sampling_agrees": ("importance sampling within 2 standard errors, share", ".0%"),
    "several_modes": ("images with more than one mode, share", ".0%"),
    "acceptance": ("chains of the run's sampler: acceptance, mean", ".2f"),
    "ess": ("bulk ESS per 1000 passes, median", ".1f"),
    "rhat": ("R-hat, median", ".3f"),
    "rhat_above": ("R-hat above 1.05, share", ".0%"),
    "stuck": ("stuck chains, share", ".0%"),
}


class Start:
    """A trained start and what is needed to evaluate it.

    config, net, z  as `abp.load_run` returns them;  images (n, 3, S, S) in [-1, 1] and their names
    folder          where tables and figures go; search: dtype of chains and searches
    mask            (n, 1, S, S) or None
    """

    def __init__(self, config, net, z, images, names, folder, search, mask=None, n_steps=60, n_shown=4):
        self.config, self.net, self.z, self.images, self.names = config, net, z, images, names
        self.folder, self.search, self.mask = folder, search, mask
        self.n_steps = n_steps
        self.shown = torch.linspace(0, len(images) - 1, min(n_shown, len(images))).round().long().unique()
        self.recon = generate(net, z)
        self.n_samples = N_SAMPLES
        self.summary = {}          # {key of QUANTITIES: value}

    def reconstruction(self):
        rows = reconstruction.rows(self.recon, self.images, self.names)
        write_tables(self.folder, "reconstruction", rows, reconstruction.HEADS, reconstruction.FORMS)
        self.summary |= {key: rows[-1][key] for key in ("psnr", "mse", "ssim")}

    def samples(self):
        samples = sample_images(self.net, self.config)
        rows, place = plane.nearest(samples, self.images, self.names)
        write_tables(self.folder, "nearest", rows, {"rms": "RMS distance", "psnr": "PSNR [dB]"},
                     {"psnr": ".2f"})
        between = plane.between(self.images, self.recon, samples, rows)
        write_tables(self.folder, "between", between)
        pictures.plot_samples_nearest(samples, self.images, place, self.folder)
        keys = [key for key in QUANTITIES if key.startswith("samples_")]
        self.summary |= {key: row["samples"] for key, row in zip(keys, between, strict=True)}

    def likelihood(self):
        self.joint = Joint(self.net, self.images, self.config.prior_sigma, self.search, self.mask)
        self.found = likelihood.likelihood(self.joint, self.z, self.names, self.config.mse_sigma)
        rows = self.found.rows + [likelihood.mean_row(self.found.rows)]
        write_tables(self.folder, "likelihood", rows, likelihood.HEADS, likelihood.FORMS)
        mean = rows[-1]
        within = [abs(r["sampling_gap"]) <= 2 * r["sampling_error"] for r in self.found.rows]
        self.summary |= {
            "ml_sigma": self.found.sigma_ml,
            "log_p": mean["log_p"],
            "log_p_ml": mean["log_p_ml"],
            "log_p_error": max(mean["error"], mean["error_ml"]),
            "bits_ml": mean["bits_ml"],
            "sampling_agrees": sum(within) / len(within),
            "several_modes":
                sum(r["modes"] > 1 for r in self.found.rows) / len(self.names),
        }

    def chains(self):
        """Chains of the run's own sampler for all images, of every sampler for the images that are shown."""
        config, sigma, found = self.config, self.config.mse_sigma, self.found.at_run
        everything = torch.arange(len(self.images))
        floor = chains.floors(self.joint, found, sigma)
        starts = chains.dispersed_starts(self.joint, everything, sigma, self.z, config.seed)
        torch.manual_seed(config.seed)
        run = chains.sample(self.joint, everything, sigma, config.chosen_sampler, starts, self.n_steps // 2,
                            self.n_steps, config.langevin_step_size)
        rows = chains.diagnose(run, found, everything, self.names, floor)
        write_tables(self.folder, "chains", rows, CHAIN_HEADS, CHAIN_FORMS)
        stuck = chains.stuck_chains(run, found, everything, self.names, floor)
        write_tables(self.folder, "stuck", stuck or [dict.fromkeys(chains.STUCK_COLUMNS)])
        column = {key: torch.tensor([float(r[key]) for r in rows]) for key in CHAIN_HEADS}
        self.summary |= {
            "acceptance": column["acceptance"].mean().item(),
            "ess": column["ess_per_1000_passes"].median().item(),
            "rhat": column["rhat"].median().item(),
            "rhat_above": (column["rhat"] > 1.05).double().mean().item(),
            "stuck": column["stuck"].sum().item() / starts[..., 0].numel(),
        }
        # every sampler on the images that are shown, all chains from the run's z
        starts = self.z[self.shown].repeat(chains.N_CHAINS, 1, 1)
        runs, table = {}, []
        for name in chains.SAMPLERS:
            runs[name] = chains.sample(self.joint, self.shown, sigma, name, starts, self.n_steps // 2,
                                       self.n_steps)
            table += [{"sampler": name} | row for row in
                      chains.diagnose(runs[name], found, self.shown, self.names, floor[self.shown])]
        write_tables(self.folder, "samplers", table, CHAIN_HEADS, CHAIN_FORMS)
        write_tables(self.folder, "samplers_mean", chains.mean_rows(table), CHAIN_HEADS, CHAIN_FORMS)
        self._draw_posteriors(runs)

    def _draw_posteriors(self, runs):
        sigma, grid, maps, traces = self.config.mse_sigma, self.found.plane, [], []
        reach = grid.z.max().item() + grid.area**0.5 / 2
        for k, i in enumerate(self.shown.tolist()):
            modes = self.found.at_run.modes.of(i)
            share = (modes.log_mass - modes.log_mass.logsumexp(0)).exp()
            drawn = share.argsort(descending=True)[:MOST_ZOOMS]
            zooms = [self._zoom(i, modes.z[m], modes.factor[m])
                     | {"z": modes.z[m].tolist(), "share": share[m].item()}
                     for m in drawn.tolist() if share[m] >= SHARE]
            index = torch.full((len(grid.z),), i)
            values = self.joint.log_joint(grid.squared_error[i], index, grid.z, sigma)
            title = self.names[i]
            maps.append({"image": self.images[i], "title": title, "reach": reach, "z": self.z[i].tolist(),
                         "plane": values.view(grid.cells, grid.cells).T, "modes": zooms})
            traces.append({"title": title, "zoom": zooms[0]["zoom"], "extent": zooms[0]["extent"],
                           "paths": {name: run.draws[:, :, k].numpy() for name, run in runs.items()}})
        pictures.plot_maps(maps, self.folder)
        pictures.plot_chains(traces, self.folder)

    def _zoom(self, i, centre, factor):
        """log p(z, I_i) on a fine grid around a mode, rows from the lowest z_2."""
        half = ZOOM_STDS * (factor @ factor.T).diagonal().sqrt()
        t = (torch.arange(ZOOM_CELLS, dtype=torch.float64) + 0.5) / ZOOM_CELLS * 2 - 1
        z = centre + torch.cartesian_prod(t, t).flip(1) * half
        index = torch.full((len(z),), i)
        values = self.joint.log_joint(self.joint.squared_error(index, z), index, z, self.config.mse_sigma)
        (left, low), (right, high) = (centre - half).tolist(), (centre + half).tolist()
        return {"zoom": values.view(ZOOM_CELLS, ZOOM_CELLS), "extent": (left, right, low, high)}

    def plane(self):
        """The latent plane: where the images sit, and where the generator tears."""
        sigma = self.config.prior_sigma
        write_tables(self.folder, "latents", plane.latents(self.z, self.names, sigma), {"z_square": "|z|²"})
        occupancy = plane.occupancy(self.z, sigma)
        write_tables(self.folder, "occupancy", occupancy)
        self.summary |= {"occupancy": occupancy[0]["value"], "inside": occupancy[1]["value"]}
        tears = plane.tears(self.net, sigma)
        self.summary["tears"] = tears["p95"] / tears["median"]
        area, _ = plane.stretch(self.net, STRETCH_REACH * sigma, STRETCH_CELLS)
        pictures.plot_plane(self.z.numpy(), area, STRETCH_REACH * sigma, panel_range(self.z, sigma), sigma,
                            self.folder)
