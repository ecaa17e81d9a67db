"""The page on which the latent plane is explored, and moving pictures."""
