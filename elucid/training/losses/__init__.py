"""Losses: `loss(denoiser, batch, step) -> LossOutput`."""
