"""What speaks for an order of cells where no cell has a label: the slides that it did not learn from, and other orders."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from milscope.ranking import excess

SURE = 10.0
"""Nats from which on the labels bear an order out."""
DOUBTFUL = 5.0
"""Nats that chance reaches where the best of many views was taken."""
FIRST = 10
"""Highest cells of a slide by which two orders are compared."""


class Trust(NamedTuple):
    """What speaks for each order of cells.

    Attributes:
        borne: Ranking → `nats`, and of the highest `cells` how many are on positive slides (`positive`), where `chance` would.
        agreement: Of every two rankings: `first`, `second`, how many of the first cells of a positive slide they share
            (`shared`), of how many (`of`), and how many by `chance`.
    """

    borne: dict[str, dict[str, float]]
    agreement: list[dict[str, Any]]

    def told(self, name: str) -> str:
        """What speaks for a ranking, in a line."""
        given = self.borne[name]
        if not given["cells"]:
            return f"no sign in the labels that the order by {name} holds"
        how = "" if given["nats"] >= SURE else "weakly " if given["nats"] >= DOUBTFUL else "not "
        return (f"the order by {name} is {how}borne out by the labels: of the highest {given['cells']:.0f} cells "
                f"{given['positive']:.0f} are on positive slides, {given['chance']:.0f} by chance ({given['nats']:.1f} nats)")

    def warnings(self) -> list[str]:
        """Orders that nothing speaks for."""
        return [f"{self.told(name)}. Where abnormal cells are very few it may hold all the same; it may as well be chance"
                for name, given in self.borne.items() if given["nats"] < DOUBTFUL]


def trust(scores: Mapping[str, Float[np.ndarray, " cell"]], slide: Int[np.ndarray, " cell"], label: Float[np.ndarray, " slide"]
          ) -> Trust:
    """Whether the highest cells of positive slides differ from those of normal ones, and whether orders agree.

    Every score is of a model that did not learn from the cell's slide, so that more of the highest cells on positive slides
    than chance would put there can come from nothing but what these slides share.

    Args:
        scores: Ranking → higher is more suspicious.
        slide: The number of each cell's slide.
        label: 1, 0, or NaN where it is not known or not for learning.
    """
    known = ~np.isnan(label)
    number = (np.cumsum(known) - 1)[slide]
    own = known[slide]
    borne = {name: excess(each[own], number[own], label[known] == 1)._asdict() for name, each in scores.items()}
    return Trust(borne, [_shared(pair, scores, slide, label) for pair in combinations(scores, 2)])


def _shared(pair: tuple[str, str], scores: Mapping[str, Float[np.ndarray, " cell"]], slide: Int[np.ndarray, " cell"],
            label: Float[np.ndarray, " slide"]) -> dict[str, Any]:
    """How many of the first cells of a positive slide two orders share, in the mean."""
    found = []
    for number in np.flatnonzero(label == 1):
        own = np.flatnonzero(slide == number)
        count = min(FIRST, len(own))
        one, other = (own[np.argsort(-scores[name][own], kind="stable")[:count]] for name in pair)
        found.append((len(np.intersect1d(one, other)), count, count**2 / len(own)))
    shared, of, chance = np.mean(found, axis=0).tolist()
    return {"first": pair[0], "second": pair[1], "shared": shared, "of": of, "chance": chance}
