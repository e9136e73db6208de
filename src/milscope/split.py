"""The stage `split`: patients are divided into training, validation and test, once and for all stages."""

import numpy as np
import pandas as pd

from milscope.configs import SplitConfig
from milscope.slides import read_slides, tasks
from milscope.types import SPLITS, refuse

Strata = dict[tuple[str, float], set[str]]


def split(frame: pd.DataFrame, config: SplitConfig | None = None, *, task: str = "") -> pd.DataFrame:
    """The slide table with every patient in one split; a complete `split` column stays as it is.

    A patient is positive for a task if any of its slides is, and counts as unlabelled if none has a label. Every split
    gets its share of the positive, negative and unlabelled patients of every task, at least one positive and one
    negative. The result does not depend on the order of the rows.

    Args:
        frame: A slide table.
        config: The shares and the seed.
        task: The task whose labels are shared out; "" for all tasks of the table.

    Raises:
        InputError: If only some slides have a split, the shares leave nothing for training, or there are too few
            positive or negative patients to have one of each in every split.

    Source:
        Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data, 2011, algorithm 1: the rarest class
        is shared out first, each patient to the split that lacks it most. Here a split's lack is a whole number.
    """
    config = config or SplitConfig()
    frame = read_slides(frame)
    if (frame["split"] != "").all():
        return frame
    if (frame["split"] != "").any():
        missing = frame["slide"][frame["split"] == ""]
        raise refuse("split", "given for every slide or for none", f"{len(missing)} slides without, like `{missing.iloc[0]}`",
                     "Complete or remove the column.")
    shares = _shares(config)
    strata = _strata(frame, [task] if task else tasks(frame))
    _check(strata, shares)
    chosen = _share_out(strata, shares, config.seed)
    _check_result(strata, shares, chosen)
    return frame.assign(split=frame["patient"].map(chosen).astype(str))


def _shares(config: SplitConfig) -> dict[str, float]:
    train = 1 - config.validation - config.test
    if config.validation < 0 or config.test < 0 or train <= 1e-9:
        raise refuse("validation and test", "shares from 0 that leave patients for training",
                     f"{config.validation:g} and {config.test:g}", "Lower them.")
    shares = dict(zip(SPLITS, (train, config.validation, config.test), strict=True))
    return {name: share for name, share in shares.items() if share > 0}


def _strata(frame: pd.DataFrame, names: list[str]) -> Strata:
    """The patients of each class of each task; class NaN is written as -1."""
    everyone = set(frame["patient"])
    if not names:
        return {("patients", -1.0): everyone}
    strata: Strata = {}
    for name in names:
        if name not in frame:
            raise refuse("task", "a column of the slide table", f"`{name}`", f"There is: {', '.join(tasks(frame))}.")
        for patient, label in frame.groupby("patient")[name].max().fillna(-1).items():
            strata.setdefault((name, float(label)), set()).add(str(patient))
    return strata


def _check(strata: Strata, shares: dict[str, float]) -> None:
    everyone = set().union(*strata.values())
    if len(everyone) < len(shares):
        raise refuse("slides", f"of at least {len(shares)} patients, one for each of {', '.join(shares)}",
                     len(everyone), "Add patients.")
    for (name, label), patients in strata.items():
        both = (name, 0.0) in strata and (name, 1.0) in strata
        if both and label >= 0 and len(patients) < len(shares):
            kind = "positive" if label else "negative"
            raise refuse(name, f"{kind} for at least {len(shares)} patients, one for each of {', '.join(shares)}",
                         len(patients), "Add patients, or give a column `split`.")


def _share_out(strata: Strata, shares: dict[str, float], seed: int) -> dict[str, str]:
    lacks = {key: _counts(len(patients), shares) for key, patients in strata.items()}
    everyone = sorted(set().union(*strata.values()))
    order = {everyone[index]: rank for rank, index in enumerate(np.random.default_rng(seed).permutation(len(everyone)))}
    room = _counts(len(everyone), shares)
    chosen: dict[str, str] = {}
    while len(chosen) < len(everyone):
        left = {key: patients - chosen.keys() for key, patients in strata.items()}
        rarest = min((key for key in left if left[key]), key=lambda key: (len(left[key]), key))
        for patient in sorted(left[rarest], key=order.__getitem__):
            mine = [key for key in strata if patient in strata[key]]
            name = max(shares, key=lambda name: (lacks[rarest][name], sum(lacks[key][name] for key in mine), room[name]))
            chosen[patient] = name
            room[name] -= 1
            for key in mine:
                lacks[key][name] -= 1
    return chosen


def _counts(patients: int, shares: dict[str, float]) -> dict[str, int]:
    """How many of so many patients each split gets: rounded, at least one if there are enough, the rest to training."""
    least = 1 if patients >= len(shares) else 0
    counts = {name: max(least, int(patients * share + 0.5)) for name, share in shares.items() if name != "train"}
    while sum(counts.values()) > patients - least:
        counts[max(counts, key=lambda name: counts[name])] -= 1
    return {"train": patients - sum(counts.values())} | counts


def _check_result(strata: Strata, shares: dict[str, float], chosen: dict[str, str]) -> None:
    for (name, label), patients in strata.items():
        if label < 0 or len(patients) < len(shares):
            continue
        for part in shares:
            if not any(chosen[patient] == part for patient in patients):
                raise refuse(name, "shared out so that every split has both classes", f"none of {label:g} in {part}",
                             "Try another seed, or give a column `split`.")
