"""The learned weighting of noise levels: a small head beside the network."""

from torch import Tensor, nn

from elucid.training.networks.edm2.layers import FourierFeatures, UnitLayer, force_unit_rows


class Uncertainty(nn.Module):
    """u(c_noise), [B] -> [B]: the logarithm of the variance that the loss divides by (arXiv 2312.02696).

    Random Fourier features of the noise level and one linear layer, whose weight is kept at magnitude 1 per feature.
    """

    def __init__(self, features: int):
        super().__init__()
        self.features = FourierFeatures(features)
        self.linear = UnitLayer(features, 1)

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.linear(self.features(c_noise)).reshape(-1)

    def after_step(self) -> None:
        force_unit_rows(self)
