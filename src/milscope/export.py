"""Export: slide model and encoder as ONNX, compared with PyTorch before anything is written."""

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import jaxtyping
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from milscope.aggregators import Aggregator, Ensemble
from milscope.configs import setting
from milscope.encoders import Encoder, load_encoder
from milscope.models import load_model
from milscope.store import Bags, Manifest, Stage, read_manifest, write_text
from milscope.types import InputError, refuse

OPSET = 18
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
LENGTHS = (1, 7, 100, 1000, 20_000)
"""Slides of these numbers of cells are compared."""
BATCHES = (1, 5)
"""Batches of these numbers of cells are compared."""
EXAMPLE = 200
"""Cells of the slide that an aggregator is traced with, at least: every number that depends on the cells is above 1."""
STRETCH = 5
"""Cells of that slide for each landmark, if there are landmarks."""
UNTRACEABLE = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError)
"""What the exporter raises for a model it cannot write down."""


@dataclass(frozen=True)
class ExportConfig:
    """How closely ONNX has to agree with PyTorch."""

    tolerance: float = setting(1e-4, "most that an output may differ from PyTorch's, relative to the largest (logits: or to 1)")


class Exported(NamedTuple):
    """The directory, the version of ONNX's operators, and how far the outputs were from PyTorch's (NaN: no encoder)."""

    directory: Path
    opset: int
    difference: float
    encoder_difference: float


def export(
    model: Path | str, out: Path | str, encoder: Path | str | None = None, config: ExportConfig | None = None
) -> Exported:
    """Writes a slide model, and the encoder that it was trained with, as ONNX for programs without PyTorch.

    model.onnx takes the features of one slide, (cell, feature) in float32 with any number of cells, and gives `logits`
    (class) and `attention` (cell, class); the features are standardised inside. encoder.onnx takes cells (cell, 3, side,
    side), RGB between 0 and 1, and gives `features`. Both run in onnxruntime on random inputs first.

    Args:
        model: A `model` artifact (`train`).
        out: Directory of model.onnx, model.json, and encoder.onnx.
        encoder: The `encoder` artifact; None for the slide model alone.
        config: Settings; the defaults of `ExportConfig` if None.

    Raises:
        InputError: If a package is missing, the encoder is not the model's, a model cannot be exported, or ONNX and PyTorch
            differ by more than the tolerance.
    """
    config = config or ExportConfig()
    _check_packages()
    trained = read_manifest(Path(model), "model")
    found = load_model(model)
    inputs, seen = {"model": trained.fingerprint}, None
    if encoder is not None:
        seen = read_manifest(Path(encoder), "encoder")
        inputs["encoder"] = _checked(seen, found.record)
    with Stage(Path(out), "onnx", config, inputs, trained.patients) as stage:
        if not stage.done:
            facts: dict[str, Any] = {"opset": OPSET, **{name: version(name) for name in ("torch", *PACKAGES)}}
            facts["difference"] = export_aggregator(found.aggregator, stage.work / "model.onnx", config.tolerance)
            if encoder is not None and seen is not None:
                network = load_encoder(encoder)
                facts["encoder_difference"] = export_encoder(network, stage.work / "encoder.onnx", config.tolerance)
                facts["encoder"] = {"name": network.name, "size": network.size, "features": network.features,
                                    "margin": seen.config.get("margin"), "extent": seen.summary.get("extent")}
            write_text(stage.work / "model.json", json.dumps({**found.record, "onnx": facts}, indent=1))
            stage.summary.update(aggregator=found.record["aggregator"], task=found.record["task"], **facts)
    facts = stage.manifest.summary
    return Exported(Path(out), facts["opset"], facts["difference"], facts.get("encoder_difference", math.nan))


def export_aggregator(aggregator: Aggregator, path: Path, tolerance: float = ExportConfig.tolerance) -> float:
    """Writes an aggregator for one slide at a time; gives how far its outputs are from PyTorch's at most.

    Raises:
        InputError: If the aggregator's steps depend on the cells in a way that ONNX cannot say, or the outputs differ.
    """
    names = {type(member).__name__ for member in aggregator.modules() if isinstance(member, Aggregator)}
    landmarks = max(getattr(member, "landmarks", 0) for member in aggregator.modules())
    aggregator = aggregator.eval()
    random = torch.Generator().manual_seed(0)
    slides = [_random_slide(aggregator, cells, random) for cells in (max(EXAMPLE, STRETCH * landmarks), *LENGTHS)]
    with _traced("model", " and ".join(sorted(names))):
        _write(_OneSlide(aggregator), slides[0], path, inputs="features", outputs=("logits", "attention"))

    def truth(features: Float[Tensor, "cell feature"]) -> list[np.ndarray]:
        found = aggregator(Bags(features, torch.tensor([0, len(features)])))
        return [found.logits[0].numpy(), found.attention.numpy()]

    return _compare(path, truth, slides[1:], tolerance, least=(1.0, 0.0))


def export_encoder(encoder: Encoder, path: Path, tolerance: float = ExportConfig.tolerance) -> float:
    """Writes an encoder for any number of cells; gives how far its features are from PyTorch's at most.

    Raises:
        InputError: If the exporter cannot write its network down, or the features differ.
    """
    encoder = encoder.eval()
    random = torch.Generator().manual_seed(0)
    batches = [torch.rand(cells, 3, encoder.size, encoder.size, generator=random) for cells in (3, *BATCHES)]
    with _traced("encoder", encoder.name):
        _write(encoder, batches[0], path, inputs="cells", outputs=("features",))
    return _compare(path, lambda cells: [encoder(cells).numpy()], batches[1:], tolerance, least=(0.0,))


@no_type_check  # made within the trace, where nothing can be checked
class _Slide:
    """What `Bags` says of one slide whose number of cells is known only when the exported model runs."""

    def __init__(self, features: Tensor) -> None:
        cells = features.shape[0]
        self.features, self.n_slides, self.lengths = features, 1, _Length(cells)
        self.offsets = torch.arange(2) * cells
        self.owner = torch.zeros(cells, dtype=torch.int64)


@no_type_check
class _Length:
    """A tensor of the one length; as a list it holds the length that is still unknown, not that of the example."""

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(torch.full((1,), self.cells, dtype=torch.int64), name)

    def tolist(self) -> list[int]:
        return [self.cells]


class _OneSlide(nn.Module):
    """An aggregator as a function of the features of one slide."""

    def __init__(self, aggregator: Aggregator) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return _aggregate(self.aggregator, features)


def _aggregate(aggregator: Aggregator, features: Tensor) -> tuple[Tensor, Tensor]:
    """`Aggregator.forward` for one slide, without the checks, which look at numbers; members of an ensemble one by one."""
    scaled = (features - aggregator.mean) / aggregator.deviation
    if isinstance(aggregator, Ensemble):
        found = [_aggregate(member, scaled) for member in aggregator.members]  # ty: ignore[invalid-argument-type]
        return torch.stack([logits for logits, _ in found]).mean(0), torch.stack([weights for _, weights in found]).mean(0)
    slide = aggregator.aggregate(_Slide(scaled))  # ty: ignore[invalid-argument-type]
    return slide.logits[0], slide.attention


def _random_slide(aggregator: Aggregator, cells: int, random: torch.Generator) -> Float[Tensor, "cell feature"]:
    """Features spread like those the aggregator was trained on."""
    noise = torch.randn(cells, len(aggregator.mean), generator=random)
    return noise * aggregator.deviation + aggregator.mean


@torch.no_grad()
def _write(module: nn.Module, example: Tensor, path: Path, *, inputs: str, outputs: Sequence[str]) -> None:
    """Traces a module whose first dimension is free, and writes it as ONNX."""
    from onnxscript import opset18

    free = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=free, strict=True)
    aten = torch.ops.aten
    program = program.run_decompositions({aten.index_add.default: _sum_of_one, aten.scatter_reduce.two: _extreme_of_one,
                                          aten.amax.default: _largest_of_all})
    written = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=[inputs], output_names=outputs, verbose=False,
        external_data=False, custom_translation_table={torch._sym_sqrt: opset18.Sqrt})  # ty: ignore[missing-attribute]
    if written is None:
        raise ValueError("the exporter gave nothing")
    written.save(path)


def _sum_of_one(base: Tensor, dim: int, index: Tensor, values: Tensor, *, alpha: float = 1) -> Tensor:
    """`index_add` into a single row. ONNX would scatter, which onnxruntime does in several threads that lose sums."""
    if base.shape[0] != 1 or dim != 0:
        return NotImplemented
    return base + alpha * values.sum(0, keepdim=True)


def _extreme_of_one(
    base: Tensor, dim: int, index: Tensor, values: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """`scatter_reduce` into a single row, likewise."""
    if base.shape[0] != 1 or dim != 0 or reduce not in ("amax", "amin") or not include_self:
        return NotImplemented
    return base.maximum(values.amax(0, keepdim=True)) if reduce == "amax" else base.minimum(values.amin(0, keepdim=True))


def _largest_of_all(values: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """`amax` over all dimensions, which the exporter wants named."""
    return NotImplemented if len(dim) else values.amax(tuple(range(values.ndim)), keepdim)


def _compare(path: Path, truth: Callable[[Tensor], list[np.ndarray]], examples: Iterable[Tensor], tolerance: float, *,
             least: Sequence[float]) -> float:
    """The largest difference between what onnxruntime and PyTorch give, relative to the largest value or to `least`."""
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # ty: ignore[missing-module-member]

    failures = [each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception)]
    worst = 0.0
    try:
        onnx.checker.check_model(path)
        _check_scatters(onnx.load(path))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is told below
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for example in examples:
            found = session.run(None, {session.get_inputs()[0].name: example.numpy()})
            with torch.inference_mode():
                wanted = truth(example)
            worst = max(worst, *(_gap(np.asarray(theirs), ours, floor)
                                 for theirs, ours, floor in zip(found, wanted, least, strict=True)))
    except (*failures, onnx.checker.ValidationError) as error:
        raise refuse(path.name, "a model that onnxruntime runs for any number of cells", _first_line(error),
                     "Report it, with the versions of torch and onnxruntime.") from error
    if not worst <= tolerance:
        raise refuse(path.name, f"within {tolerance:g} of PyTorch", f"a difference of {worst:.3g}",
                     "Report it, with the versions of torch and onnxruntime, or accept more with `tolerance`.")
    return worst


def _check_scatters(model: Any) -> None:  # noqa: ANN401
    """Refuses sums that onnxruntime would make in several threads at once, so that some get lost now and then."""
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            if any(each.name == "reduction" and each.s not in (b"", b"none") for each in node.attribute):
                raise _unwritable("model", node.name, f"it scatters sums ({node.op_type}), which onnxruntime gets wrong")


def _gap(found: np.ndarray, wanted: np.ndarray, least: float) -> float:
    """Infinite if a value is not finite, or the shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    gap = float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), least, 1e-12))
    return gap if math.isfinite(gap) else math.inf


def _checked(encoder: Manifest, record: Mapping[str, Any]) -> str:
    """The encoder's fingerprint, if it is the one that the model was trained with."""
    if record.get("encoder") != encoder.fingerprint:
        raise refuse("encoder", f"{record.get('encoder') or 'unknown'}, with which the model was trained", encoder.fingerprint,
                     "Give the encoder of the features that the model was trained on.")
    return encoder.fingerprint


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise refuse("onnx", "installed for an export", f"no {', '.join(missing)}", "Run `pip install 'milscope[onnx]'`.")


@contextmanager
def _traced(what: str, name: str) -> Generator[None]:
    """Where a model is traced: without shape checks, which cannot be, and without the exporter's talk about itself."""
    checks = jaxtyping.config.jaxtyping_disable
    loggers = [logging.getLogger(each) for each in ("onnx_ir", "onnxscript", "torch", "torch._guards", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    try:
        jaxtyping.config.update("jaxtyping_disable", True)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UNTRACEABLE as error:
        raise _unwritable(what, name, _first_line(error)) from error
    finally:
        jaxtyping.config.update("jaxtyping_disable", checks)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _unwritable(what: str, name: str, why: str) -> InputError:
    return refuse(what, "one that can be written as ONNX for any number of cells", f"`{name}`: {why}",
                  "Take another; docs/export.md lists those that can be.")


def _first_line(error: BaseException) -> str:
    told = str(error).strip().splitlines() or [type(error).__name__]
    return told[0].strip().rstrip(".:")[:200]
