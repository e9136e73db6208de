"""From the cells of a slide to the slide: packed bags in, slide logits and cell attention out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from milscope.aggregators._abmil import ABMIL, GatedABMIL
from milscope.aggregators._abmilx import ABMILX
from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._clam import CLAMMB, CLAMSB
from milscope.aggregators._dsmil import DSMIL
from milscope.aggregators._dtfd import DTFD
from milscope.aggregators._ensemble import Ensemble
from milscope.aggregators._mambamil import MambaMIL
from milscope.aggregators._mecds import MECDS
from milscope.aggregators._pamil import PAMIL
from milscope.aggregators._pooling import MaxPooling, MeanPooling
from milscope.aggregators._preselected import Preselected
from milscope.aggregators._transmil import TransMIL
from milscope.types import refuse

ENSEMBLE = "ensemble"
AGGREGATORS: Mapping[str, type[Aggregator]] = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "abmil": ABMIL,
    "abmil-gated": GatedABMIL,
    "clam-sb": CLAMSB,
    "clam-mb": CLAMMB,
    "dsmil": DSMIL,
    "dtfd": DTFD,
    "pamil": PAMIL,
    "transmil": TransMIL,
    "abmilx": ABMILX,
    "mambamil": MambaMIL,
    "mecds": MECDS,
    "preselected": Preselected,
}


def aggregator_class(name: str) -> type[Aggregator]:
    """The class of that name.

    Raises:
        InputError: If there is none.
    """
    if name not in AGGREGATORS:
        raise refuse("aggregators", "of " + ", ".join(AGGREGATORS), f"`{name}`", "Choose among them.")
    return AGGREGATORS[name]


def restored(name: str, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Aggregator:
    """A trained model again, ready to predict: one of `AGGREGATORS`, or an ensemble of them.

    Raises:
        InputError: If there is no aggregator of that name.
    """
    with torch.random.fork_rng(devices=[]):  # what is drawn for new weights is not missed elsewhere
        model = Ensemble(**options, find=aggregator_class) if name == ENSEMBLE else aggregator_class(name)(**options)
    model.load_state_dict(dict(weights))
    return model.eval()


__all__ = [
    "ABMIL",
    "ABMILX",
    "AGGREGATORS",
    "CLAMMB",
    "CLAMSB",
    "DSMIL",
    "DTFD",
    "ENSEMBLE",
    "MECDS",
    "PAMIL",
    "Aggregated",
    "Aggregator",
    "Ensemble",
    "GatedABMIL",
    "MambaMIL",
    "MaxPooling",
    "MeanPooling",
    "Preselected",
    "Targets",
    "TransMIL",
    "aggregator_class",
    "restored",
]
