"""The other generative models of the lectures, a file each, held to bars that a broken one fails."""
