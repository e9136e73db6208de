"""Encoding: the features of every cell of every slide, with the encoder and the patients it has seen on record."""

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from milscope.augment import centre
from milscope.configs import EncodeConfig
from milscope.devices import choose_device, choose_precision, mixed_precision
from milscope.encoders import Encoder, load_encoder
from milscope.progress import progress
from milscope.store import CellStore, Stage, read_manifest, write_features
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


def encode(cells: Path | str, encoder: Path | str, out: Path | str, config: EncodeConfig | None = None) -> Encoded:
    """Encodes every cell of a store: the encoder's output for the middle of the cell, in float32.

    Args:
        cells: A `cells` artifact (`tile`).
        encoder: An `encoder` artifact (`pretrain`).
        out: Directory of the features, one HDF5 file per slide in TRIDENT's layout.
        config: Settings; the defaults of `EncodeConfig` if None.
    """
    config = config or EncodeConfig()
    if config.batch < 1:
        raise refuse("batch", "at least 1", config.batch, "The default is 512.")
    store, origin = CellStore(cells), read_manifest(Path(encoder), "encoder")
    inputs = {"cells": store.manifest.fingerprint, "encoder": origin.fingerprint}
    with Stage(Path(out), "features", config, inputs, origin.patients) as stage:
        if not stage.done:
            network = load_encoder(Path(encoder))
            folder = stage.work / f"features_{re.sub('[/:]', '_', network.name)}"
            folder.mkdir(exist_ok=True)
            _encode_missing(store, network, folder, config, margin=origin.config.get("margin", 1.0))
            stage.summary.update(slides=len(store.slides), cells=sum(map(store.count, store.slides)),
                                 features=network.features, encoder=network.name, tile=store.manifest.config,
                                 warnings=_scale_warnings(origin.summary.get("extent"), store.extent(store.slides)))
    summary = stage.manifest.summary
    return Encoded(Path(out), summary["slides"], summary["cells"], summary["features"], summary.get("warnings", []))


def _scale_warnings(learned: float | None, extent: float) -> list[str]:
    """What to say if cells show another width of tissue than those the encoder learned from."""
    if learned is None or math.isnan(extent) or 1 / SCALE_TOLERANCE < extent / learned < SCALE_TOLERANCE:
        return []
    return [f"the encoder learned from cells {learned:.3g} microns wide, these are {extent:.3g} microns wide"]


def _encode_missing(store: CellStore, network: Encoder, folder: Path, config: EncodeConfig, *, margin: float) -> None:
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    network = network.to(device, memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    missing = [slide for slide in store.slides if not (folder / f"{slide}.h5").exists()]
    with progress("encode", sum(map(store.count, missing)), "cells") as advance:
        for slide in missing:
            parts = []
            for pixels in _chunks(store, slide, config.batch, int(np.ceil(network.size * margin))):
                parts.append(encode_cells(network, pixels, precision))
                advance(len(pixels))
            write_features(folder / f"{slide}.h5", np.concatenate(parts), store.table(slide), encoder=network.name,
                           frame=store.frame(slide))


def _chunks(store: CellStore, slide: str, batch: int, side: int) -> Iterator[UInt8[np.ndarray, "cell side side 3"]]:
    """Decoded cells, the next chunk decoded while the present one is encoded."""
    rows = np.arange(store.count(slide))
    starts = range(0, len(rows), batch)
    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(store.decode, slide, rows[:batch], side)]
        for start in starts:
            ready = ahead.pop().result()
            ahead.append(thread.submit(store.decode, slide, rows[start + batch : start + 2 * batch], side))
            yield ready


@torch.inference_mode()
def encode_cells(network: Encoder, pixels: UInt8[np.ndarray, "cell side side 3"],
                 precision: torch.dtype = torch.float32) -> Float[np.ndarray, "cell feature"]:
    """Features of decoded cells, on the device the network is on."""
    device = next(network.parameters()).device
    views = centre(torch.from_numpy(pixels).to(device), network.size)
    with mixed_precision(device, precision):
        return network(views).float().cpu().numpy()
