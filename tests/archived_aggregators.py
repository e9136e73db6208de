"""Archived slides, weights and what another implementation says of them."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from milscope.aggregators import Aggregator
from milscope.store import Bags

ARCHIVED = Path(__file__).parent / "unit" / "aggregators" / "archived"


def archived(kind: type[Aggregator], name: str, **options: Any) -> tuple[Aggregator, Bags, dict[str, Tensor]]:
    """The aggregator with the archived weights, in double precision, the slides, and labels and expected outputs by name."""
    with safe_open(ARCHIVED / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        model = kind(**json.loads(file.metadata()["options"]) | options).double().eval()
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    model.load_state_dict({"mean": model.mean, "deviation": model.deviation} | weights)
    expected = {key.removeprefix("expected."): value for key, value in tensors.items() if key.startswith("expected.")}
    return model, Bags(tensors["features"], tensors["offsets"]), {"labels": tensors["labels"], **expected}
