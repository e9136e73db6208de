"""Methods of pretraining: which objective looks at which cells, and how their gradients are joined."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from milscope.objectives._contrastive import NTXent
from milscope.objectives._label import SlideLabel
from milscope.objectives._similarity import Similarity

Objective = Callable[[Tensor, Tensor], Tensor]
"""Projections (view=2, cell, projection) and whether each cell's slide is positive ( cell) to a loss ()."""


@dataclass(frozen=True)
class Task:
    """One objective and the cells it looks at."""

    name: str
    """What the log calls it."""
    objective: Objective
    cells: Literal["positive", "negative", "all"]
    """Those of positive slides, of negative slides, or all."""


@dataclass(frozen=True)
class Method:
    """What an encoder is pretrained with."""

    name: str
    tasks: tuple[Task, ...]
    """In order of priority, for the rules of surgery that have one."""
    surgery: str
    """The name in `milscope.surgery.SURGERIES` of the rule that joins their gradients, unless another is asked for."""
    head: Literal["projector", "linear"]
    """What the objectives see: a projection of the features, or one logit per cell."""

    @property
    def blind(self) -> bool:
        """Whether the labels of slides count nothing: neither in the choice of cells nor for an objective."""
        return all(task.cells == "all" and isinstance(task.objective, NTXent | Similarity) for task in self.tasks)


def _contrast_and_similarity(name: str, surgery: str) -> Callable[[float, float], Method]:
    """Contrast on positive and similarity on negative slides, joined by that surgery."""
    return lambda contrast, similarity: Method(name, (
        Task("contrast", NTXent(contrast), "positive"), Task("similarity", Similarity(similarity), "negative"),
    ), surgery, "projector")


METHODS: dict[str, Callable[[float, float], Method]] = {
    "slam-ags": _contrast_and_similarity("slam-ags", "ags-one-way"),
    "weaksupcon": _contrast_and_similarity("weaksupcon", "sum"),
    "pcgrad": _contrast_and_similarity("pcgrad", "pcgrad"),
    "one-way": _contrast_and_similarity("one-way", "ags-one-way"),
    "upgrad": _contrast_and_similarity("upgrad", "upgrad"),
    "mgda": _contrast_and_similarity("mgda", "mgda"),
    "simclr": lambda contrast, _: Method("simclr", (Task("contrast", NTXent(contrast), "all"),), "sum", "projector"),
    "weakly-supervised": lambda *_: Method("weakly-supervised", (Task("label", SlideLabel(), "all"),), "sum", "linear"),
    "similarity": lambda _, similarity: Method(
        "similarity", (Task("similarity", Similarity(similarity), "negative"),), "sum", "projector"),
}
"""Every method by the name the command line knows it by, from the temperatures of its contrast and its similarity.

Sources: SLAM-AGS (arXiv 2511.14639) and what it compares itself with; WeakSupCon (the same two losses, plain sum);
SimCLR (Chen et al., 2020). The rules of surgery say theirs.
"""
