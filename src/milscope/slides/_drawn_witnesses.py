"""Ordinary cells that lie whole in their crop, and kinds of witnesses that differ from them in one thing only."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from milscope.slides._drawn_cells import KINDS, Density, Optics, Squamous, draw_squamous

SMALL: Mapping[str, Squamous] = {
    "superficial": KINDS["superficial"]._replace(radius=(11.5, 15.5), two=0.03),
    "intermediate": KINDS["intermediate"]._replace(radius=(11.0, 15.5)),
    "parabasal": KINDS["parabasal"],
    "folded": KINDS["folded"]._replace(radius=(12.0, 15.5)),
    "degenerated": KINDS["degenerated"]._replace(radius=(9.5, 13.5)),
    "vacuolated": KINDS["intermediate"]._replace(radius=(11.0, 15.5), body=(2.4, 4.2), hollow=True),
}
"""Squamous cells of which hardly anything reaches out of a crop of 48 microns."""
ORDINARY = {"superficial": 0.22, "intermediate": 0.30, "parabasal": 0.17, "folded": 0.08, "degenerated": 0.07,
            "vacuolated": 0.06, "neutrophils": 0.06, "debris": 0.04}
"""Shares of the kinds among what a detector finds and is normal."""


ANY = {"superficial": 0.28, "intermediate": 0.39, "parabasal": 0.22, "folded": 0.11}
"""Without cells so frayed that nobody could tell."""
WHOLE = {"superficial": 0.32, "intermediate": 0.44, "parabasal": 0.24}
"""Nor folded ones."""
FINE = {"intermediate": 0.68, "parabasal": 0.2, "folded": 0.12}
"""Without cells whose nucleus is shrunken."""
WARM = 0.43
"""Share of ordinary cells with eosinophilic or keratinised cytoplasm."""


class Witness(NamedTuple):
    """What sets a witness apart from an ordinary cell, and which ordinary cells, with shares, it can be."""

    changed: Callable[[Squamous], Squamous]
    among: Mapping[str, float]


WITNESSES: Mapping[str, Witness] = {
    "inclusion": Witness(lambda cell: cell._replace(body=(2.6, 4.0)), ANY),
    "nucleus": Witness(lambda cell: cell._replace(nucleus=(10.5, 13.2), two=0.0, halo=0.0, orange=WARM), FINE),
    "chromatin": Witness(lambda cell: cell._replace(chromatin=0.7, coarseness=0.85, even=True, orange=WARM), FINE),
    "outline": Witness(lambda cell: cell._replace(warped=True, length=(1.0, 1.1)), WHOLE),
    "colour": Witness(lambda cell: cell._replace(tint=(18.0, 0.4, 13.0, 0.4)), ANY),
}
"""The kinds of witnesses beside the squamous abnormal cells."""


def draw_witness(name: str, optics: Optics, rng: np.random.Generator) -> Density:
    """A witness of that kind, its nucleus in the middle of the square."""
    witness = WITNESSES[name]
    cell = SMALL[str(rng.choice(list(witness.among), p=list(witness.among.values())))]
    return draw_squamous(witness.changed(cell), optics, rng)
