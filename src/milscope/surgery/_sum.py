"""No surgery: the plain sum of the gradients."""

import torch

from milscope.surgery._base import Gramian, Surgery, Weights


class PlainSum(Surgery):
    """Every gradient with weight one: what ordinary training on the sum of the losses does."""

    def __init__(self) -> None:
        super().__init__(keep_length=False)

    def combination(self, gramian: Gramian) -> Weights:
        """One for every task."""
        return torch.ones_like(gramian[0])
