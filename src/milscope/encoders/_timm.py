"""Builds timm's models: at any size they take, by any name, from timm's list, the hub or a folder."""

import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants, errors
from torch import nn

from milscope.encoders import _torchvision
from milscope.types import InputError, refuse

_torchvision.mend()
import timm  # noqa: E402 - needs the line above

HUB_SECONDS = 5
"""How long the hub may take to answer at all, before it counts as not to be reached."""
CONNECTION: tuple[type[Exception], ...] = errors.HfHubHTTPError.__bases__  # ty: ignore[invalid-assignment]
"""What the hub's library raises for a broken connection: the base error of whichever HTTP library it uses, and `OSError`."""


class Built(NamedTuple):
    """A model without its classifier, and how to build it again without the hub."""

    backbone: nn.Module
    architecture: str
    options: dict[str, Any]
    features: int


def build(name: str, *, size: int, options: dict[str, Any], pretrained: bool = False) -> Built:
    """The model of that name for cells of that size; `img_size` is passed to models that take it.

    Args:
        name: As timm knows it, with or without a tag: `vit_small_patch16_224.dino`, `hf-hub:owner/model`,
            `local-dir:folder`.
        size: Side of a cell, pixels.
        options: Further options of the model. With `img_size` among them (None: the model's own) they are taken as
            they are.
        pretrained: With timm's weights, from the hub or its cache.

    Raises:
        InputError: If there is no such model, it does not take the options or the size, or the hub does not give it.
    """
    from_hub = name.startswith(("hf-hub:", "hf_hub:")) or (pretrained and not name.startswith("local-dir:"))
    with _hub(name) if from_hub else _told(name, options):
        given = {**_options_of(name), **options}
        chosen, backbone, features = _fit(name, given, size, fixed="img_size" in options)
        if pretrained:
            del backbone
            with _whole(name, size):
                backbone = timm.create_model(name, pretrained=True, num_classes=0, **chosen)
    options = {key: value for key, value in chosen.items() if value is not None}
    return Built(backbone, configuration(backbone)["architecture"], options, features)


def configuration(backbone: nn.Module) -> dict[str, Any]:
    """What timm says about a model: its colours, its classifier, where its weights are."""
    return dict(backbone.default_cfg)  # ty: ignore[no-matching-overload]


def colours(backbone: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the colours, between 0 and 1, that the model was made for."""
    config = configuration(backbone)
    mean, deviation = config.get("mean") or (0.5,) * 3, config.get("std") or (0.25,) * 3
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(deviation).view(1, -1, 1, 1)


def _options_of(name: str) -> dict[str, Any]:
    """The options that a model of the hub or of a folder was saved with."""
    source, _, place = name.partition(":")
    if source in ("hf-hub", "hf_hub") and place:
        return timm.models.load_model_config_from_hf(place)[2] or {}
    if source == "local-dir":
        return json.loads((Path(place) / "config.json").read_text()).get("model_args", {})
    return {}


def _fit(name: str, options: dict[str, Any], size: int, *, fixed: bool) -> tuple[dict[str, Any], nn.Module, int]:
    """The options with which the model takes the size, the model, and the width of its output."""
    unknown, unfit = [], []
    sized: dict[str, Any] = {**options, "img_size": size}
    for attempt in [options] if fixed else [sized, options]:
        try:
            with _told(name, options):
                backbone = timm.create_model(name, pretrained=False, num_classes=0, **attempt)
        except InputError as error:
            unknown.append(error)
            continue
        try:
            return attempt, backbone, _width(backbone, name, size)
        except InputError as error:
            unfit.append(error)
    raise (unfit or unknown[-1:])[0]


def _width(backbone: nn.Module, name: str, size: int) -> int:
    """The width of the model's output, found by trying: `num_features` is another one in some models."""
    patches = getattr(backbone, "patch_embed", None)
    if isinstance(patches, timm.layers.PatchEmbed) and not patches.dynamic_img_pad:
        patch = max(patches.patch_size)
        if size % patch:
            near = " or ".join(str(times * patch) for times in (size // patch, size // patch + 1) if times)
            raise refuse("size", f"a multiple of {patch}, the side of a patch of `{name}`", size, f"Take {near}.")
    weight = next(backbone.parameters())
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shape = backbone.eval()(torch.zeros(1, 3, size, size, dtype=weight.dtype)).shape
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError) as error:
        own = configuration(backbone)["input_size"][-1]
        raise refuse("size", f"one that `{name}` takes", f"{size} ({reason(error)})", f"Its own is {own}.") from error
    finally:
        backbone.train()
    if len(shape) != 2:
        raise refuse("encoder", "a timm model that gives one vector a cell", f"`{name}` with output of shape {tuple(shape)}",
                     "Leave out `global_pool` among its options.")
    return shape[1]


def reason(error: BaseException) -> str:
    """The first line of what a library says, or the error's name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".:")


@contextmanager
def _told(name: str, options: dict[str, Any]) -> Generator[None]:
    """Where timm builds a model; what it objects to is told in one line."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError, OSError) as error:
        raise refuse("encoder", "a timm model that takes the given options", f"`{name}` {options} ({reason(error)})",
                     "`timm.list_models()` lists the names.") from error


@contextmanager
def _hub(name: str) -> Generator[None]:
    """Where the hub is asked; it is not asked again and again if it does not answer, only its cache on this disk."""
    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
        yield
    except InputError:
        raise
    except (LookupError, RuntimeError, ValueError, AssertionError, *CONNECTION) as error:
        why = reason(error)
        if isinstance(error, errors.RepositoryNotFoundError):
            why = "no such repository, or no access to it"
        elif isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
            why = "no connection to the hub, and nothing in its cache"
        raise refuse("weights", "on the hub or in its cache", f"nothing for `{name}` ({why})",
                     "Give a timm model's name and its weights as a file.") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def _whole(name: str, size: int) -> Generator[None]:
    """Refuses pretrained weights that leave some of the model's random, or do not fit it.

    timm only logs what is missing, since without the classifier it does not load strictly.
    """
    logger, heard = logging.getLogger("timm.models._builder"), _Ear()
    before = logger.level, logger.propagate
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        heard.missing = [str(error).splitlines()[1].strip().rstrip(".")]
    finally:
        logger.removeHandler(heard)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    if heard.missing:
        raise refuse("weights", f"those of `{name}` at {size} pixels", f"in the hub's: {', '.join(heard.missing[:3])}",
                     "Take the size that they were trained at, or another model.")


class _Ear(logging.Handler):
    """Hears which keys timm did not find."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes the names out of timm's line."""
        if found := re.match(r"Missing keys \((.*?)\)", record.getMessage()):
            self.missing = [f"no `{key}`" for key in found[1].split(", ") if not key.endswith("num_batches_tracked")]
