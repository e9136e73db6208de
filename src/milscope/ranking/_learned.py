"""Rankings that learn from slide labels, by name; see `Learned`."""

from collections.abc import Mapping

from milscope.ranking._density import density
from milscope.ranking._local import local
from milscope.ranking._mahalanobis import mahalanobis
from milscope.ranking._neighbours import neighbours
from milscope.ranking._pu import pu
from milscope.ranking._seek import seek
from milscope.ranking._seen import Learned
from milscope.ranking._selfpaced import selfpaced
from milscope.ranking._svdd import svdd

ON_FEATURES: Mapping[str, Learned] = {"mahalanobis": mahalanobis, "neighbours": neighbours, "svdd": svdd, "density": density,
                                      "pu": pu, "selfpaced": selfpaced}
"""Those that look at what an encoder makes of cells."""
ON_PIXELS: Mapping[str, Learned] = {"local": local, "seek": seek}
"""Those that look at the cells themselves."""
LEARNED: Mapping[str, Learned] = {**ON_PIXELS, **ON_FEATURES}
