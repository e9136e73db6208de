"""From the cells of a slide to the slide: packed bags in, slide logits and cell attention out."""

from collections.abc import Mapping

from milscope.aggregators._abmil import ABMIL, GatedABMIL
from milscope.aggregators._base import Aggregated, Aggregator
from milscope.aggregators._pamil import PAMIL
from milscope.aggregators._pooling import MaxPooling, MeanPooling
from milscope.types import refuse

AGGREGATORS: Mapping[str, type[Aggregator]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "abmil": ABMIL,
    "abmil-gated": GatedABMIL,
    "pamil": PAMIL,
}


def aggregator_class(name: str) -> type[Aggregator]:
    """The class of that name.

    Raises:
        InputError: If there is none.
    """
    if name not in AGGREGATORS:
        raise refuse("aggregators", "of " + ", ".join(AGGREGATORS), f"`{name}`", "Choose among them.")
    return AGGREGATORS[name]


__all__ = [
    "ABMIL",
    "AGGREGATORS",
    "PAMIL",
    "Aggregated",
    "Aggregator",
    "GatedABMIL",
    "MaxPooling",
    "MeanPooling",
    "aggregator_class",
]
