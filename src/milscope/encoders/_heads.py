"""The projector: from features to the space in which cells are compared while training."""

from jaxtyping import Float
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Two linear layers with a ReLU between, without normalisation; thrown away after training.

    Args:
        features: Width of the encoder's features.
        width: Width of the hidden layer and of the projection.

    Source:
        SLAM-AGS (arXiv 2511.14639): 512 to 512 to 512. The authors' code exports this projection as the feature of a
        cell; here the encoder's output is the feature.
    """

    def __init__(self, features: int, width: int = 512) -> None:
        super().__init__(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, input: Float[Tensor, "cell feature"]) -> Float[Tensor, "cell projection"]:
        """The projection of each cell."""
        return super().forward(input)
