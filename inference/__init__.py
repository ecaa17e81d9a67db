"""The mathematics of step 1: the posterior of a latent, samplers, masks."""
