"""Encoding: the features of every cell of every slide, with the encoder and the patients it has seen on record."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int, UInt8

from milscope.augment import centre
from milscope.configs import EncodeConfig
from milscope.devices import choose_device, choose_precision, mixed_precision
from milscope.encoders import Encoder, load_encoder
from milscope.pool import Lost, over_slides
from milscope.progress import progress
from milscope.slides import DamagedError
from milscope.store import (
    CellStore,
    Stage,
    Window,
    decode_windows,
    read_manifest,
    window_cells,
    windows,
    write_features,
    write_text,
)
from milscope.types import refuse

SCALE_TOLERANCE = 1.25
"""Cells may be wider or narrower than the encoder's by this factor without a word."""


class Encoded(NamedTuple):
    """The features' directory, how much it holds, and what to mind."""

    directory: Path
    slides: int
    cells: int
    features: int
    warnings: list[str]


class _Work(NamedTuple):
    """All that a process needs to know."""

    cells: Path
    encoder: Path
    fingerprint: str
    folder: Path
    config: EncodeConfig
    margin: float
    windows: tuple[Window, ...]


def encode(cells: Path | str, encoder: Path | str, out: Path | str, config: EncodeConfig | None = None) -> Encoded:
    """Encodes every cell of a store: the encoder's output for the middle of the cell, in float32.

    An encoder that learned at several scales or windows encodes every cell at each of them: the slide's cells through the
    first window, then through the second, ... A slide whose cells cannot be read is left out and listed in `failures.csv`.

    Args:
        cells: A `cells` artifact (`tile`).
        encoder: An `encoder` artifact (`pretrain`).
        out: Directory of the features, one HDF5 file per slide in TRIDENT's layout.
        config: Settings; the defaults of `EncodeConfig` if None.

    Raises:
        InputError: If an artifact is of another kind, a setting out of range, or no slide can be encoded.
    """
    config = config or EncodeConfig()
    _check(config)
    store, origin = CellStore(cells), read_manifest(Path(encoder), "encoder")
    looks = windows(origin.config.get("scales", ["1"]), origin.config.get("windows", "middle"))
    inputs = {"cells": store.manifest.fingerprint, "encoder": origin.fingerprint}
    with Stage(Path(out), "features", config, inputs, origin.patients) as stage:
        if not stage.done:
            network = load_encoder(Path(encoder))
            folder = stage.work / f"features_{re.sub('[/:]', '_', network.name)}"
            folder.mkdir(exist_ok=True)
            work = _Work(store.directory, Path(encoder), origin.fingerprint, folder, _settled(config),
                         origin.config.get("margin", 1.0), looks)
            failures = _encode_missing(work, store, network)
            good = _finish(work, store, failures)
            stage.summary.update(slides=len(good), cells=sum(map(store.count, good)),
                                 features=network.features, encoder=network.name, tile=store.manifest.config,
                                 **({"windows": len(looks)} if len(looks) > 1 else {}),
                                 warnings=[*_scale_warnings(origin.summary.get("extent"), store.extent(good)),
                                           *_failure_warnings(failures)])
    summary = stage.manifest.summary
    return Encoded(Path(out), summary["slides"], summary["cells"], summary["features"], summary.get("warnings", []))


def _check(config: EncodeConfig) -> None:
    for name, rule, good in (
        ("batch", "at least 1", config.batch >= 1),
        ("workers", "0 or more", config.workers >= 0),
        ("limit", "above 0 seconds, or 0 for none", 0 <= config.limit < math.inf),
    ):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")


def _settled(config: EncodeConfig) -> EncodeConfig:
    """The settings with device and arithmetic as they are for all processes: machines may differ, features may not."""
    if config.executor == "here":
        return config
    device = {"auto": "cpu"}.get(config.device, config.device)
    if config.executor == "ray" and device.startswith("cuda"):
        device = "cuda"  # Ray gives every process its own
    precision = config.precision
    if precision == "auto" and device == "cpu":
        precision = "float32" if choose_precision("auto", torch.device("cpu")) == torch.float32 else "bfloat16"
    return dataclasses.replace(config, device=device, precision="bfloat16" if precision == "auto" else precision)


def _scale_warnings(learned: float | None, extent: float) -> list[str]:
    """What to say if cells show another width of tissue than those the encoder learned from."""
    if learned is None or math.isnan(extent) or 1 / SCALE_TOLERANCE < extent / learned < SCALE_TOLERANCE:
        return []
    return [f"the encoder learned from cells {learned:.3g} microns wide, these are {extent:.3g} microns wide"]


def _failure_warnings(failures: Mapping[str, str]) -> list[str]:
    if not failures:
        return []
    (slide, reason), *_ = failures.items()
    return [f"{len(failures)} slides were not encoded ({', '.join([*failures][:10])}); the first, {slide}: {reason}"]


def _encode_missing(work: _Work, store: CellStore, network: Encoder) -> dict[str, str]:
    """Encodes the slides that are not done yet; slide → why it cannot be, for those that cannot."""
    config, reasons = work.config, {}
    missing = [slide for slide in store.slides if not (work.folder / f"{slide}.h5").exists()]
    rows = {slide: store.count(slide) * len(work.windows) for slide in missing}
    with progress("encode", sum(rows.values()), "cells") as advance:
        if config.executor == "here":
            network = _placed(network, config)
            for slide in missing:
                reasons[slide] = _encode_slide(slide, work, store, network, advance)
        else:
            done = over_slides(partial(_encode_alone, work=work), missing, config.workers, limit=config.limit or None,
                               executor=config.executor, address=config.address, shared=work.folder,
                               gpus=float(config.executor == "ray" and config.device == "cuda"))
            for slide, reason in done:
                reasons[slide] = reason.reason if isinstance(reason, Lost) else reason
                advance(rows[slide])
    return {slide: reasons[slide] for slide in missing if reasons[slide]}


def _encode_alone(slide: str, *, work: _Work) -> str:
    """As `_encode_slide`, in a process that keeps the network for the next slide."""
    return _encode_slide(slide, work, *_opened(work), lambda count: None)


@lru_cache(maxsize=1)
def _opened(work: _Work) -> tuple[CellStore, Encoder]:
    return CellStore(work.cells), _placed(load_encoder(work.encoder), work.config)


def _placed(network: Encoder, config: EncodeConfig) -> Encoder:
    device = choose_device(config.device)
    return network.to(device, memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]


def _encode_slide(slide: str, work: _Work, store: CellStore, network: Encoder, advance: Callable[[int], None]) -> str:
    """Writes the features of a slide; gives the reason if its cells cannot be read, else ""."""
    precision = choose_precision(work.config.precision, next(network.parameters()).device)
    try:
        if len(store.table(slide)) != store.count(slide):
            raise DamagedError(f"{len(store.table(slide))} cells where there were {store.count(slide)}")
        features = np.empty((store.count(slide) * len(work.windows), network.features), np.float32)
        for rows, pixels in _chunks(store, slide, work, int(np.ceil(network.size * work.margin))):
            features[rows] = encode_cells(network, pixels, precision)
            advance(len(rows))
    except (DamagedError, FileNotFoundError, pa.ArrowInvalid) as error:
        return " ".join(str(error).split())
    frame = store.frame(slide)
    write_features(work.folder / f"{slide}.h5", features, window_cells(store.table(slide), work.windows, frame),
                   encoder=network.name, frame=frame)
    return ""


def _finish(work: _Work, store: CellStore, failures: Mapping[str, str]) -> list[str]:
    """Lists the failures; gives the slides that have features."""
    good = [slide for slide in store.slides if slide not in failures]
    if not good:
        (slide, reason), *_ = failures.items()
        raise refuse("cells", "of slides that can be read, at least one", f"{len(failures)} that are not; the first, "
                     f"{slide}: {reason}", "Tile the slides again.")
    table = pd.DataFrame([(slide, "", reason) for slide, reason in failures.items()], columns=["slide", "cell", "reason"])
    write_text(work.folder.parent / "failures.csv", table.to_csv(index=False))
    return good


def _chunks(store: CellStore, slide: str, work: _Work, side: int) -> Iterator[
    tuple[Int[np.ndarray, " row"], UInt8[np.ndarray, "row side side 3"]]
]:
    """Rows and their pixels, cell by cell, the next chunk decoded while the present one is encoded."""
    rows = np.arange(store.count(slide) * len(work.windows)).reshape(len(work.windows), -1).T.ravel()
    chunks = [rows[start : start + work.config.batch] for start in range(0, len(rows), work.config.batch)]
    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(decode_windows, store, slide, chunks[0], work.windows, side)]
        for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
            ready = ahead.pop().result()
            if following is not None:
                ahead.append(thread.submit(decode_windows, store, slide, following, work.windows, side))
            yield chunk, ready


@torch.inference_mode()
def encode_cells(network: Encoder, pixels: UInt8[np.ndarray, "cell side side 3"],
                 precision: torch.dtype = torch.float32) -> Float[np.ndarray, "cell feature"]:
    """Features of decoded cells, on the device the network is on."""
    device = next(network.parameters()).device
    views = centre(torch.from_numpy(pixels).to(device), network.size)
    with mixed_precision(device, precision):
        return network(views).float().cpu().numpy()
