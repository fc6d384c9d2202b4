"""Where snapshots of format 1 look for their function, so that plain `pickle.load` still opens them."""

from elucid.unpickle import denoiser as rebuild_denoiser

__all__ = ["rebuild_denoiser"]
