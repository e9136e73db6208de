"""Rules that join the gradients of several objectives, by the name the command line knows them by."""

from collections.abc import Callable

from milscope.surgery._adaptive import AdaptiveSurgery, OneWaySurgery
from milscope.surgery._base import Conflict, Surgery, gramian
from milscope.surgery._sum import PlainSum

SURGERIES: dict[str, Callable[[float | None], Surgery]] = {
    "ags": lambda bound: AdaptiveSurgery(rescale_bound=bound),
    "ags-one-way": lambda bound: OneWaySurgery(rescale_bound=bound),
    "sum": lambda _: PlainSum(),
}

__all__ = ["SURGERIES", "AdaptiveSurgery", "Conflict", "OneWaySurgery", "PlainSum", "Surgery", "gramian"]
