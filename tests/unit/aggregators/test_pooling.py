"""Mean and max pooling, beyond the laws."""

import torch

from milscope.aggregators import MaxPooling
from milscope.store._bags import Bags


def test_of_equal_cells_the_first_has_all_the_attention():
    model = MaxPooling(3).eval()
    found = model(Bags(torch.ones(4, 3), torch.tensor([0, 3, 4])))
    assert found.attention[:, 0].tolist() == [1.0, 0.0, 0.0, 1.0]
