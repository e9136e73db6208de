"""Models whose formula has something of size cells × landmarks, cells × cells or cells × states never hold it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from milscope.aggregators import AGGREGATORS, _abmilx, _mambamil, _mecds, _transmil
from milscope.store._bags import Bags

CELLS, WIDTH = 3000, 64
FORBIDDEN = [  # in numbers
    ("transmil", 8 * CELLS * 128, {"hidden": WIDTH, "heads": 8, "landmarks": 128}),
    ("abmilx", CELLS * CELLS, {"hidden": WIDTH}),
    ("mambamil", CELLS * 16 * 2 * WIDTH, {"hidden": WIDTH, "stride": 2}),
    ("mecds", CELLS * CELLS, {"width": WIDTH}),
    ("mecds", CELLS * CELLS, {"width": WIDTH, "cells": "cells", "blocks": 1}),
    ("mecds", CELLS * CELLS, {"width": WIDTH, "cells": "all", "blocks": 1}),
]


@pytest.mark.parametrize(("name", "forbidden", "options"), FORBIDDEN)
def test_a_step_never_holds_it_and_keeps_a_few_features_a_cell(name, forbidden, options, monkeypatch):
    for module, limit in ((_transmil, "LEAN"), (_abmilx, "ROWS"), (_mambamil, "LEAN"), (_mambamil, "PIECE"), (_mecds, "LEAN")):
        monkeypatch.setattr(module, limit, 1000)
    model = AGGREGATORS[name](WIDTH, 2, **options)
    (_, half), (largest, whole) = step(model, CELLS // 2), step(model, CELLS)
    assert CELLS * WIDTH <= largest < forbidden / 4
    assert whole - half < 12 * WIDTH * CELLS / 2


def step(model, cells):
    """How many numbers the largest result of any operation has, forward and backward, and how many are kept between."""
    kept = []
    bags = Bags(torch.randn(cells, WIDTH), torch.tensor([0, cells]))
    with Largest() as mode, torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, same):
        model(bags).logits.sum().backward()
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() // 4 for tensor in kept}
    return mode.numbers, sum(sizes.values())


class Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        found = function(*arguments, **(named or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return found


def same(tensor):
    return tensor
