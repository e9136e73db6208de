"""The units, names and the one error that every part of milscope shares."""

from typing import Literal, NewType, get_args

Microns = NewType("Microns", float)
"""A length on the glass."""
MicronsPerPixel = NewType("MicronsPerPixel", float)
"""The scale of an image; 0.5 is a 20x scan, 0.25 a 40x scan."""
SlidePixels = NewType("SlidePixels", float)
"""A length or place in the full-resolution pixels (level 0) of a slide image."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class InputError(ValueError):
    """A user's mistake or a damaged input, told in one line; a command ends with exit status 2."""


class Unfinished(InputError):
    """What stops a stage from outside its input, such as a missing machine: what was finished is kept."""


def refuse(name: str, rule: str, found: object, action: str) -> InputError:
    """The error that says which input is wrong, the rule, what was found, and the way out.

    >>> print(refuse("k", "at least 1", 0, "Ask for one cell or more."))
    `k` should be at least 1. Found 0. Ask for one cell or more.
    """
    return InputError(f"`{name}` should be {rule}. Found {found}. {action}")


def unfinished(name: str, rule: str, found: object, action: str) -> Unfinished:
    """As `refuse`, for what stops a stage from outside its input."""
    return Unfinished(*refuse(name, rule, found, action).args)
