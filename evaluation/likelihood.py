"""log p(I) of every image at the run's sigma and at the maximum-likelihood sigma, with checks."""
from typing import NamedTuple

import torch

from evaluation.linear import bits_per_dim
from evaluation.needles import Plane, find_modes, survey
from evaluation.quadrature import Evidence, importance, log_evidence, ml_sigma

HEADS = {"image": "image", "log_p": "log p at the run's σ [nats]", "error": "error estimate",
         "modes": "modes", "behind": "run's z below the best mode [nats]", "log_p_ml": "log p at ML σ [nats]",
         "error_ml": "error estimate", "bits": "bits/dim at the run's σ", "bits_ml": "bits/dim at ML σ",
         "sampling_gap": "importance sampling − quadrature [nats]", "sampling_error": "its standard error"}
FORMS = {"log_p": ".2f", "log_p_ml": ".2f", "error": ".1e", "error_ml": ".1e", "behind": ".2f", "bits": ".3f",
         "bits_ml": ".3f", "sampling_gap": ".4f", "sampling_error": ".4f"}


class Likelihood(NamedTuple):
    plane: Plane
    at_run: Evidence               # at the run's sigma
    at_ml: Evidence                # at the maximum-likelihood sigma
    sigma_ml: float
    rows: list                     # one for each image


def likelihood(joint, z, names, sigma, seed=0):
    """The likelihood of every image of a trained generator, exactly.

    z (n, 2) the run's latents, from which modes are searched for too; sigma the run's.
    """
    plane, index = survey(joint), torch.arange(len(z))
    at_run = log_evidence(joint, plane, find_modes(joint, plane, sigma, z), sigma)
    sigma_ml, at_ml = ml_sigma(joint, plane, z)
    estimate, deviation = importance(joint, at_run.modes, sigma, seed=seed)
    gap = estimate - at_run.log_p
    # how far the density at the run's z lies below that at the best mode
    best = at_run.modes.z[at_run.modes.heaviest()]
    top, own = (joint.log_joint(joint.squared_error(index, point), index, point, sigma)
                for point in (best, z))
    counts = at_run.modes.image.bincount(minlength=len(z))
    bits = [bits_per_dim(evidence.log_p, joint.n_values) for evidence in (at_run, at_ml)]
    columns = {"log_p": at_run.log_p, "error": at_run.error, "modes": counts, "behind": top - own,
               "log_p_ml": at_ml.log_p, "error_ml": at_ml.error, "bits": bits[0], "bits_ml": bits[1],
               "sampling_gap": gap, "sampling_error": deviation}
    rows = [{"image": name} | {key: values[i].item() for key, values in columns.items()}
            for i, name in enumerate(names)]
    return Likelihood(plane, at_run, at_ml, sigma_ml, rows)


def mean_row(rows):
    """The means of the columns of numbers; of error estimates, the greatest."""
    row = {"image": "mean"}
    for key in list(rows[0])[1:]:
        values = [r[key] for r in rows]
        row[key] = max(values) if key.startswith("error") else sum(values) / len(values)
    return row
