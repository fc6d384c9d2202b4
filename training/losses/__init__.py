"""Losses: `loss(denoiser, batch, step) -> LossOutput`. Read next: `base.py`."""
