"""A network as a denoiser: one preconditioner a file."""
