"""Rules that join the gradients of several objectives, by the name the command line knows them by."""

from collections.abc import Callable

from milscope.surgery._adaptive import AdaptiveSurgery, OneWaySurgery
from milscope.surgery._base import Conflict, Surgery, gramian
from milscope.surgery._mgda import MGDA
from milscope.surgery._pcgrad import PCGrad
from milscope.surgery._sum import PlainSum
from milscope.surgery._upgrad import UPGrad

SURGERIES: dict[str, Callable[[float | None], Surgery]] = {
    "ags": lambda bound: AdaptiveSurgery(rescale_bound=bound),
    "ags-one-way": lambda bound: OneWaySurgery(rescale_bound=bound),
    "sum": lambda _: PlainSum(),
    "pcgrad": lambda _: PCGrad(),
    "upgrad": lambda _: UPGrad(),
    "mgda": lambda _: MGDA(),
}
"""Each is built with the most that it may lengthen a step; only those that keep the length of the sum use it."""

__all__ = [
    "MGDA",
    "SURGERIES",
    "AdaptiveSurgery",
    "Conflict",
    "OneWaySurgery",
    "PCGrad",
    "PlainSum",
    "Surgery",
    "UPGrad",
    "gramian",
]
