"""Patients divided into training, validation and test, once or in folds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from milscope.configs import SplitConfig
from milscope.slides import read_slides
from milscope.split._divide import divide
from milscope.split._strata import columns_of, sites_of, strata_of
from milscope.types import SPLITS, refuse


def split(frame: pd.DataFrame, config: SplitConfig | None = None, *, task: str = "") -> pd.DataFrame:
    """The slide table with every patient in one split; a complete `split` column stays as it is.

    A patient is positive for a task if any of its slides is, has every class of a column of other values that its
    slides have, and counts as unlabelled if no slide has a label. Every split gets its share of the patients of every
    class of every task, at least one of each class. The result does not depend on the order of the rows.

    Args:
        frame: A slide table.
        config: The shares and the seed.
        task: The columns whose labels are shared out, with commas between; "" for all yes/no columns of the table.

    Raises:
        InputError: If only some slides have a split, the shares leave nothing for training, or there are too few
            patients of a class to have one in every split.

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
    strata = strata_of(frame, columns_of(frame, task))
    chosen = divide(strata, shares, config.seed)
    return frame.assign(split=frame["patient"].map(chosen).astype(str))


def folds(frame: pd.DataFrame, count: int, *, seed: int, task: str = "", site: str = "",
          validation: float = 0.2) -> list[pd.DataFrame]:
    """The slide table once per fold: the patients of that fold are its test, the others train or validate.

    Every patient is test in exactly one result. The classes are shared out as by `split`; a `split` column is not
    looked at. With `site` no site is test in two folds, and validation patients are of the training patients' sites.

    Args:
        frame: A slide table.
        count: Number of folds, 2 or more.
        seed: Same seed, same folds.
        task: The columns whose labels are shared out, with commas between; "" for all yes/no columns of the table.
        site: The column that says where a patient's slides come from; "" to let folds share sites.
        validation: Share of the patients that are not test, for validation.

    Raises:
        InputError: If there are too few patients or sites of a class for every fold, or a slide without a site.
    """
    frame = read_slides(frame)
    names = [name for name in columns_of(frame, task) if name != site]
    units = frame["patient"].map(sites_of(frame, site)) if site else frame["patient"]
    parts = _parts(count)
    strata = strata_of(frame, names, dict(zip(frame["patient"], units, strict=True)))
    chosen = divide(strata, parts, seed, unit="sites" if site else "patients")
    fold = units.map(chosen)
    return [hold_out(frame.assign(split=np.where(fold == part, "test", "train")), validation, [seed, number], names)
            for number, part in enumerate(parts)]


def rotations(frame: pd.DataFrame, count: int, *, seed: int, task: str = "") -> list[pd.DataFrame]:
    """The slide table once per member of an ensemble: each part of the patients that are not test validates once.

    Test patients stay test in every result, and slides without a split stay without.

    Args:
        frame: A slide table with a split.
        count: Number of parts, 2 or more.
        seed: Same seed, same parts.
        task: As in `folds`.

    Raises:
        InputError: If there is no split, or too few patients of a class for every part.
    """
    frame = read_slides(frame)
    learns = frame["split"].isin(("train", "validation"))
    if not learns.any():
        raise refuse("split", "train or validation for some slides", "none", "Run `milscope split`, or add the column.")
    pool, parts = frame[learns], _parts(count)
    chosen = divide(strata_of(pool, columns_of(frame, task)), parts, seed)
    part = frame["patient"].map(chosen)
    return [frame.assign(split=frame["split"].where(~learns, np.where(part == name, "validation", "train")))
            for name in parts]


def hold_out(frame: pd.DataFrame, validation: float, seed: int | Sequence[int], names: Sequence[str]) -> pd.DataFrame:
    """The slide table with a share of its training patients moved to validation, stratified by the columns `names`."""
    if not 0 <= validation < 1:
        raise refuse("validation", "a share from 0 that leaves patients for training", f"{validation:g}", "Lower it.")
    if validation == 0:
        return frame
    trains = frame["split"] == "train"
    shares = {"train": 1 - validation, "validation": validation}
    chosen = divide(strata_of(frame[trains], names), shares, seed)
    return frame.assign(split=frame["split"].where(~trains, frame["patient"].map(chosen)).astype(str))


def _shares(config: SplitConfig) -> dict[str, float]:
    train = 1 - config.validation - config.test
    if config.validation < 0 or config.test < 0 or train <= 1e-9:
        raise refuse("validation and test", "shares from 0 that leave patients for training",
                     f"{config.validation:g} and {config.test:g}", "Lower them.")
    shares = dict(zip(SPLITS, (train, config.validation, config.test), strict=True))
    return {name: share for name, share in shares.items() if share > 0}


def _parts(count: int) -> dict[str, float]:
    if count < 2:
        raise refuse("count", "at least 2 folds", count, "5 is common.")
    return {f"fold {number}": 1 / count for number in range(1, count + 1)}
