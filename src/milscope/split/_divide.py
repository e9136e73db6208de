"""Shares out patients or sites so that every part gets its share of every class."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from milscope.split._strata import Strata
from milscope.types import refuse


def divide(strata: Strata, parts: Mapping[str, float], seed: int | Sequence[int], *,
           unit: str = "patients") -> dict[str, str]:
    """Patient or site → part, every part with every class.

    Raises:
        InputError: If there are too few patients or sites of a class, or the division left a part without one.
    """
    each = f"{len(parts)} {unit}, one for each of {', '.join(parts) if len(parts) < 4 else f'{len(parts)} folds'}"
    way_out = "or give a column `split`" if "train" in parts else "or ask for fewer folds"
    everyone = set().union(*strata.values())
    if len(everyone) < len(parts):
        raise refuse("slides", f"of at least {each}", len(everyone), f"Add {unit}, {way_out}.")
    known = [(name, label) for name, label in strata if label]
    compared = [key for key in known if any(name == key[0] and label != key[1] for name, label in known)]
    for name, label in compared:
        if len(strata[name, label]) < len(parts):
            raise refuse(name, f"{label} for at least {each}", len(strata[name, label]), f"Add {unit}, {way_out}.")
    chosen = _share_out(strata, parts, seed)
    for name, label in compared:
        without = [part for part in parts if part not in {chosen[one] for one in strata[name, label]}]
        if without:
            raise refuse(name, "shared out so that every part has every class", f"none {label} in {without[0]}",
                         f"Try another seed, {way_out}.")
    return chosen


def _share_out(strata: Strata, parts: Mapping[str, float], seed: int | Sequence[int]) -> dict[str, str]:
    lacks = {key: _counts(sum(units.values()), parts) for key, units in strata.items()}
    first, weights = next(iter(strata))[0], Counter[str]()
    for units in (units for (name, _), units in strata.items() if name == first):
        weights.update(units)
    everyone = sorted(weights)
    order = {everyone[index]: rank for rank, index in enumerate(np.random.default_rng(seed).permutation(len(everyone)))}
    room = _counts(sum(weights.values()), parts)
    chosen: dict[str, str] = {}
    while len(chosen) < len(everyone):
        left = {key: {one: patients for one, patients in units.items() if one not in chosen} for key, units in strata.items()}
        rarest = min((key for key in left if left[key]), key=lambda key: (sum(left[key].values()), key))
        for one in sorted(left[rarest], key=lambda one: (-left[rarest][one], order[one])):  # of sites the largest first
            mine = [key for key in strata if one in strata[key]]
            part = max(parts, key=lambda part: (lacks[rarest][part], sum(lacks[key][part] for key in mine), room[part]))
            chosen[one] = part
            room[part] -= weights[one]
            for key in mine:
                lacks[key][part] -= strata[key][one]
    return chosen


def _counts(patients: int, parts: Mapping[str, float]) -> dict[str, int]:
    """How many of so many patients each part gets: folds the same, splits rounded shares, one if there are enough."""
    if "train" not in parts:
        return dict.fromkeys(parts, patients // len(parts))
    least = 1 if patients >= len(parts) else 0
    counts = {name: max(least, int(patients * share + 0.5)) for name, share in parts.items() if name != "train"}
    while sum(counts.values()) > patients - least:
        counts[max(counts, key=lambda name: counts[name])] -= 1
    return {"train": patients - sum(counts.values())} | counts
