"""The other generative models of the lectures, one file each, and a sheet that compares them."""
