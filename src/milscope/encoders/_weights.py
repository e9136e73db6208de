"""Weights from a file into a timm model: whatever they are wrapped in, but all of them or none."""

import argparse
import pickle
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from milscope.encoders._timm import configuration, reason
from milscope.types import refuse

PICKLED = (".pt", ".pth", ".bin")
"""Endings of files that torch wrote; only tensors and plain values are read from them."""
SHOWN = 3


def load_weights(backbone: nn.Module, path: Path, *, name: str, size: int) -> None:
    """Gives a model the weights of a file, which may be wrapped in a larger model and hold a classifier.

    Names may begin with anything that is the same for all (`backbone.`, `module.encoder.`, `state_dict.model.`).
    Weights for another size of cells are resampled as timm does it, where it can.

    Raises:
        InputError: If the file cannot be read, or does not hold exactly the model's weights.
    """
    tensors = read_tensors(path)
    wanted = backbone.state_dict()
    unwrapped = _unwrap(tensors, wanted, path)
    for candidate in (unwrapped, _converted(unwrapped, backbone), _converted(tensors, backbone)):
        if not _misfit(candidate, backbone, wanted):
            backbone.load_state_dict({key: candidate[key] for key in wanted if key in candidate}, strict=False)
            return
    found = min((_converted(unwrapped, backbone), unwrapped), key=lambda each: len(_misfit(each, backbone, wanted)))
    misfit = _misfit(found, backbone, wanted)
    more = f" and {len(misfit) - SHOWN} more" if len(misfit) > SHOWN else ""
    raise refuse("weights", f"those of `{name}` at {size} pixels", f"in {path}: {', '.join(misfit[:SHOWN])}{more}",
                 "Name the encoder, its options and the size that they were made with.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; those of nested dictionaries with dots between the names.

    Raises:
        InputError: If there is no such file, or it holds more than tensors and plain values.
    """
    if path.suffix not in (".safetensors", *PICKLED):
        raise refuse("weights", "`hub` or a file: .safetensors, .pt, .pth or .bin", path,
                     "An encoder's directory is given as `init`.")
    if not path.is_file():
        raise refuse("weights", "a file", f"none at {path}", "Correct the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return dict(_flat(torch.load(path, map_location="cpu", weights_only=True)))
    except pickle.UnpicklingError as error:
        raise refuse("weights", "a file of tensors, without code", f"{path}, damaged or with other objects",
                     "Save the state dict alone, with safetensors.") from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise refuse("weights", "a readable file", f"{path} ({reason(error)})", "Copy or download it again.") from error


def _flat(tree: Any, above: str = "") -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401
    if isinstance(tree, Tensor):
        yield above[:-1], tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _flat(value, f"{above}{key}.")


def _unwrap(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors below the prefix under which most of the model's names are found."""
    counts: Counter[str] = Counter()
    for key in tensors:
        parts = key.split(".")
        counts.update(".".join([*parts[:cut], ""]) for cut in range(len(parts)) if ".".join(parts[cut:]) in wanted)
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    averaged = [prefix for prefix in best if "ema" in prefix]
    if len(best) > 1 and len(averaged) != 1 and most * 2 > len(wanted):
        raise refuse("weights", "those of one encoder", f"several in {path}: {', '.join(best)}", "Save one of them alone.")
    prefix = (averaged or best or [""])[0] if most * 2 > len(wanted) else ""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _converted(tensors: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors as timm's module of the model changes foreign names and other sizes; as they are where it cannot."""
    module = sys.modules[type(backbone).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return tensors
    for arguments in ((dict(tensors), backbone), (dict(tensors),)):
        try:
            return convert(*arguments)
        except (TypeError, LookupError, AttributeError, ValueError, RuntimeError, AssertionError):
            continue
    return tensors


def _misfit(tensors: Mapping[str, Tensor], backbone: nn.Module, wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps the tensors from being the model's; classifiers and other heads beside the model do not."""
    missing = [f"no `{key}`" for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    shapes = [f"`{key}` {tuple(tensors[key].shape)} instead of {tuple(wanted[key].shape)}" for key in wanted
              if key in tensors and tensors[key].shape != wanted[key].shape]
    classifier = configuration(backbone).get("classifier") or ()
    heads = {each.split(".")[0] for each in ([classifier] if isinstance(classifier, str) else classifier)}
    own = {name for name, _ in backbone.named_children()} - heads
    fixed = {name for name, _ in backbone.named_buffers()}
    foreign = [f"`{key}`, which it does not have" for key in tensors if key not in wanted and key not in fixed and (
        key.split(".")[0] in own or ("." not in key and key != "mask_token"))]
    return missing + shapes + foreign
