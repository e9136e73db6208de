"""What an interrupted training needs to go on bit-identically: one file, whole or absent, without pickle."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from milscope.types import refuse

OPTIMIZER = "optimizer."
STATE = "state"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes tensors and plain values to one safetensors file; a kill at any moment leaves the old file or the new.

    Args:
        path: The file.
        tensors: Name → tensor, on any device, of any dtype and shape; tensors may share memory.
        state: JSON values (floats are kept exactly, also nan and inf); they go into the file's metadata.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(copies, temporary, metadata={STATE: json.dumps(dict(state))})
    _to_disk(temporary)
    temporary.replace(path)
    _to_disk(path.parent)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors (on the CPU, memory of their own) and the state of a checkpoint; None if there is none.

    Raises:
        InputError: If the file is no checkpoint of milscope or is damaged.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})[STATE])
            return {name: file.get_tensor(name).clone() for name in file.keys()}, state  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError) as error:
        raise refuse(str(path), "a checkpoint of milscope", f"{type(error).__name__}: {error}",
                     "Delete it; the stage then starts afresh.") from error


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `optimizer.<parameter>.<name>`; before the first step there are none.

    Settings such as the learning rate are not among them: whoever resumes sets them from the step's number.

    Raises:
        TypeError: If the optimizer keeps something else than tensors (SGD and AdamW do not).
    """
    tensors = {}
    for parameter, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{parameter}.{name}"] = value
            elif value is not None:
                raise TypeError(f"`optimizer` should keep tensors only. Found {name} = {value!r}. Use SGD or AdamW.")
    return tensors


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts the state of `optimizer_tensors` back into an optimizer of the same parameters; other names are ignored.

    It lies in memory as the parameters do, which fused optimizers take for granted.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith(OPTIMIZER):
            parameter, key = name.removeprefix(OPTIMIZER).split(".", 1)
            own = parameters[int(parameter)]
            lies = own if own.shape == tensor.shape else tensor
            copy = torch.empty_like(lies, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
            state.setdefault(int(parameter), {})[key] = copy
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def step_seed(*numbers: int) -> int:
    """A seed of 63 bits that depends on all the numbers and their order, the same on every machine.

    Seeding each step with (seed, epoch, step) makes a resumed run draw what the undisturbed run draws, without
    storing any random state.

    >>> step_seed(0, 1) == step_seed(0, 1), step_seed(0, 1) == step_seed(1, 0)
    (True, False)
    """
    digest = hashlib.sha256(",".join(str(int(number)) for number in numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU that starts from `step_seed(*numbers)`."""
    return torch.Generator().manual_seed(step_seed(*numbers))


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
