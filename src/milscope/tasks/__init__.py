"""What is asked about a slide: yes or no, one of several classes, a grade, the time until an event."""

from milscope.tasks._base import Answers, Graded, Loss, Task
from milscope.tasks._classes import Binary, MultiClass
from milscope.tasks._ordinal import Ordinal
from milscope.tasks._several import JointLoss, Questions, mean_measure, sampling_weights
from milscope.tasks._spec import described_task, parse_tasks, settled_tasks, spelled_task
from milscope.tasks._survival import Cox, Hazards, Survival

__all__ = [
    "Answers",
    "Binary",
    "Cox",
    "Graded",
    "Hazards",
    "JointLoss",
    "Loss",
    "MultiClass",
    "Ordinal",
    "Questions",
    "Survival",
    "Task",
    "described_task",
    "mean_measure",
    "parse_tasks",
    "sampling_weights",
    "settled_tasks",
    "spelled_task",
]
