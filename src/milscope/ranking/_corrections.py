"""The scores of all cells once some of them were judged: what `retrieve --labels` puts in place of those before."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import ndtri

from milscope.judged import match_verdicts
from milscope.progress import progress
from milscope.ranking._corrected import Corrector, Examples, Gain, learn_corrections, measure_gain
from milscope.ranking._looks import Looks
from milscope.ranking._scores import Ranking, order, rank_slides
from milscope.types import refuse

SAMPLE, EACH = 20_000, 100
"""Cells beside the judged ones that are learned from: most of all slides together, and of one slide."""
MOST = 50.0
"""The furthest a corrected score is from 0."""
UNSEEN = -60.0
"""About where the cells stand that were not looked at, in their order before."""
SAID = 200.0
"""The score of a judged cell is this much above or below what it would be."""


class Asked(NamedTuple):
    """What is ranked anew.

    Attributes:
        scores: The `scores` artifact.
        ranking: The order before.
        task: Whose scores; "" for the main one.
        reach: Most cells of a slide that are looked at, the first by the order before.
        normal: Slides that are known to be normal, and not for testing.
        verdicts: As `read_verdicts` gives them.
        looks: What cells look like.
    """

    scores: Path
    ranking: Ranking
    task: str
    reach: int
    normal: frozenset[str]
    verdicts: pd.DataFrame
    looks: Looks


class Correction:
    """New scores of cells, from verdicts on some of them; without a verdict of either kind the old ones.

    Two passes over the scores, one slide at a time: one collects judged cells and a sample of the others, `scores` is the
    other.

    Args:
        asked: What is ranked anew.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.told = dict(iter(asked.verdicts.groupby("slide", sort=False)))
        examples, self.before = self._collect()
        counts = [int((examples.verdict == value).sum()) for value in (1, 0)]
        lacking = [name for name, count in zip(("abnormal", "normal"), counts, strict=True) if not count]
        self.corrector: Corrector | None = None if lacking else learn_corrections(examples)
        self.gain: Gain | None = None if lacking else measure_gain(examples)
        said = asked.verdicts["label"].notna()
        self.summary: dict[str, Any] = {
            "abnormal": counts[0], "normal": counts[1], "unsure": int((~said).sum()),
            "unmatched": int(said.sum()) - sum(counts),
            "kept_order": bool(lacking), "gain": None if self.gain is None else self.gain._asdict()}
        self.warnings = self._warnings(lacking)

    def scores(self, slide: str, cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
        """The new scores of a slide's cells: logits, beyond them those that were judged.

        Abnormal ones come first, normal ones and artefacts last, each in the new order.

        Args:
            slide: Its name.
            cells: All its cells in the order of the store, with `cell`, `x`, `y`, `score`.
        """
        if self.corrector is None:
            return cells["score"].to_numpy(dtype=float)
        verdict = self._verdicts(slide, cells)
        rows = self._seen(cells, verdict)
        prior = _quantile(cells["score"].to_numpy(dtype=float), self.before)
        found = UNSEEN - np.argsort(order(cells["score"].to_numpy(dtype=float))) / len(cells)
        found[rows] = np.clip(self.corrector(self._looks(slide, cells, rows), prior[rows]), -MOST, MOST)
        return found + SAID * np.nan_to_num(2 * verdict - 1)

    def _collect(self) -> tuple[Examples, Float[np.ndarray, " sampled"]]:
        """Judged cells and a sample of the others; and the sampled scores, in rising order."""
        asked, parts, looks = self.asked, [], []
        names = pd.read_csv(asked.scores / "slides.csv", usecols=["slide"], dtype=str)["slide"]
        each, random = min(EACH, max(1, SAMPLE // max(1, len(names)))), np.random.default_rng(17)
        self._prepare()
        with progress("look", len(names), "slides") as advance:
            for number, (slide, cells) in enumerate(rank_slides(asked.scores, asked.ranking, asked.task)):
                verdict = self._verdicts(slide, cells)
                rows = self._seen(cells, verdict)
                said = np.flatnonzero(~np.isnan(verdict))
                chosen = np.union1d(said, random.choice(rows, min(each, len(rows)), replace=False))
                own = self._looks(slide, cells, rows)
                looks.append(own[np.searchsorted(rows, chosen)])
                parts.append(pd.DataFrame({"score": cells["score"].to_numpy(dtype=float)[chosen], "verdict": verdict[chosen],
                                           "slide": number, "normal": slide in asked.normal}))
                advance(1)
        table = pd.concat(parts, ignore_index=True)
        before = np.sort(table["score"].to_numpy())
        return Examples(np.concatenate(looks), _quantile(table["score"].to_numpy(), before), table["slide"].to_numpy(),
                        table["verdict"].to_numpy(), table["normal"].to_numpy()), before

    def _prepare(self) -> None:
        """Has all cells measured that will be looked at."""
        asked = self.asked
        asked.looks.prepare((slide, self._places(slide, cells, self._seen(cells, self._verdicts(slide, cells))))
                            for slide, cells in rank_slides(asked.scores, asked.ranking, asked.task))

    def _verdicts(self, slide: str, cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
        return match_verdicts(self.told[slide], cells) if slide in self.told else np.full(len(cells), np.nan)

    def _seen(self, cells: pd.DataFrame, verdict: Float[np.ndarray, " cell"]) -> Int[np.ndarray, " row"]:
        """The numbers of the cells that are looked at, rising: the first by the order before, and those that were judged."""
        first = order(cells["score"].to_numpy(dtype=float))[: self.asked.reach]
        return np.union1d(first, np.flatnonzero(~np.isnan(verdict)))

    def _looks(self, slide: str, cells: pd.DataFrame, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row look"]:
        return self.asked.looks.of(slide, self._places(slide, cells, rows))

    def _places(self, slide: str, cells: pd.DataFrame, rows: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """Their numbers in the store, which may hold cells in another order, or more of them."""
        stored = pd.Index(self.asked.looks.store.table(slide)["cell"].to_pylist())
        places = stored.get_indexer(pd.Index(cells["cell"].iloc[rows]))
        if (places < 0).any():
            raise refuse("cells", "the store that the scores were made from", f"{(places < 0).sum()} scored cells of slide "
                         f"{slide} that are not in it", "Give that store, or encode and predict again.")
        return places

    def _warnings(self, lacking: list[str]) -> list[str]:
        found, gain = [], self.gain
        if lacking:
            found.append(f"nothing {' and nothing '.join(lacking)} was judged among these cells, so the order is as it was")
        elif gain is None:
            found.append("too few slides were judged to hold any out: what the new order gains is not known")
        elif gain.after < gain.before:
            found.append(f"on held-out verdicts the new order is worse ({gain.after} abnormal among the first {gain.abnormal}, "
                         f"{gain.before} by the order before): judge more cells, or leave `--labels` out")
        if self.summary["unmatched"]:
            found.append(f"{self.summary['unmatched']} verdicts are on cells that are not scored")
        return found


def _quantile(scores: Float[np.ndarray, " cell"], before: Float[np.ndarray, " sampled"]) -> Float[np.ndarray, " cell"]:
    """Scores as quantiles of the normal distribution, by how many of the sampled ones are below."""
    below = np.searchsorted(before, scores, side="left") / 2 + np.searchsorted(before, scores, side="right") / 2
    return ndtri((below + 0.5) / (len(before) + 1))
