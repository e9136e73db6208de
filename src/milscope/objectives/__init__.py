"""What an encoder is trained to do, and the methods that put it together."""

from milscope.objectives._contrastive import NTXent
from milscope.objectives._distillation import (
    AsymmetricDistillation,
    Distillation,
    Guide,
    SoftLabels,
    check_distilled,
)
from milscope.objectives._label import SlideLabel
from milscope.objectives._method import METHODS, Method, Objective, Task
from milscope.objectives._similarity import Similarity

__all__ = [
    "METHODS",
    "AsymmetricDistillation",
    "Distillation",
    "Guide",
    "Method",
    "NTXent",
    "Objective",
    "Similarity",
    "SlideLabel",
    "SoftLabels",
    "Task",
    "check_distilled",
]
