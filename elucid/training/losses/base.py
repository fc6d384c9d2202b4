"""What every loss is. A loss of your own is one new file with a subclass of `Loss`."""

from torch import nn

from elucid.training.preconds.base import Denoiser
from elucid.training.types import Batch, LossOutput, NetSpec, Step


class Loss(nn.Module):
    """Maps a denoiser and a batch of clean images to one loss per image.

    The denoiser may be called any number of times; a loss may own parameters, which are trained with the network's.
    Options are the keyword arguments of the constructor, with their defaults.
    """

    def adapt(self, spec: NetSpec) -> NetSpec:
        """What this loss needs of the network beyond `spec`: coordinate channels, a variance head, ..."""
        return spec

    def check(self, denoiser: Denoiser) -> None:
        """Raise UserError when this denoiser cannot be trained with this loss; called once, when building."""

    def image_multiplier(self, step: Step) -> int:
        """How many times the usual number of images this step wants; a pure function of the step."""
        return 1

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        """`loss` [B], each image's loss summed over C, H and W; `terms` are shown in the logs."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(denoiser, batch, step)")

    def after_step(self, denoiser: Denoiser, step: Step) -> None:
        """Called after each optimizer step."""
