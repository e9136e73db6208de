from dataclasses import dataclass
from typing import get_args, get_type_hints

import pytest
import torch
from jaxtyping import Bool, Float
from tests.unit.surgery.drawn_gradients import flat
from torch import Tensor

from milscope.objectives import METHODS, Method, NTXent, Similarity, SlideLabel, Task
from milscope.surgery import SURGERIES

SAME_TWO = {"slam-ags": "ags-one-way", "weaksupcon": "sum", "pcgrad": "pcgrad", "one-way": "ags-one-way", "upgrad": "upgrad",
            "mgda": "mgda"}


@dataclass(frozen=True)
class Halfway:
    """A third objective: positive cells should lie opposite to negative ones."""

    margin: float = 0.5

    def __call__(self, projections: Float[Tensor, "view=2 cell projection"],
                 positive: Bool[Tensor, " cell"]) -> Float[Tensor, ""]:
        apart = projections[:, positive].mean((0, 1)) - projections[:, ~positive].mean((0, 1))
        return (self.margin - apart.norm()).square()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_knows_its_name_and_a_surgery_that_exists(name: str) -> None:
    method = METHODS[name](0.1, 0.5)
    assert method.name == name
    assert method.surgery in SURGERIES
    assert len({task.name for task in method.tasks}) == len(method.tasks) > 0


@pytest.mark.parametrize("name", SAME_TWO)
def test_comparators_of_surgery_differ_in_it_only(name: str) -> None:
    tasks = (Task("contrast", NTXent(0.1), "positive"), Task("similarity", Similarity(0.5), "negative"))
    assert METHODS[name](0.1, 0.5) == Method(name, tasks, SAME_TWO[name], "projector")


def test_methods_of_one_task() -> None:
    assert METHODS["simclr"](0.1, 0.5).tasks == (Task("contrast", NTXent(0.1), "all"),)
    assert METHODS["similarity"](0.1, 0.5).tasks == (Task("similarity", Similarity(0.5), "negative"),)
    supervised = METHODS["weakly-supervised"](0.1, 0.5)
    assert (supervised.tasks, supervised.head) == ((Task("label", SlideLabel(), "all"),), "linear")


def test_methods_are_these() -> None:
    assert METHODS.keys() == SAME_TWO.keys() | {"simclr", "weakly-supervised", "similarity"}


@pytest.mark.parametrize("surgery", SURGERIES)
def test_a_third_task_is_one_objective_more(surgery: str) -> None:
    """Written here and in no other place, it is joined with the two others by any rule, and all that is left is training."""
    tasks = (*METHODS["slam-ags"](0.5, 0.5).tasks, Task("halfway", Halfway(), "all"))
    method = Method("with-halfway", tasks, surgery, "projector")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    cells, positive = torch.randn(2, 12, 6, dtype=torch.float64), torch.arange(12) % 2 == 0
    seen = {"positive": positive, "negative": ~positive, "all": torch.ones(12, dtype=torch.bool)}
    assert set(seen) == set(get_args(get_type_hints(Task)["cells"]))

    def losses() -> list[Tensor]:
        return [task.objective(network(cells[:, seen[task.cells]]), positive[seen[task.cells]]) for task in method.tasks]

    before = losses()
    parameters = list(network.parameters())
    gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in before]
    joined, telemetry = SURGERIES[method.surgery](None)(gradients)
    pairs = [torch.cosine_similarity(flat(gradients[i]), flat(gradients[j]), dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(telemetry.cosine, min(pairs))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, joined, strict=True):
            parameter -= 1e-4 * gradient
    after = losses()
    assert sum(after) < sum(before)
    if surgery in {"upgrad", "mgda"}:
        assert all(new <= old for new, old in zip(after, before, strict=True))
