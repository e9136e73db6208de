"""What a check found, and how much it matters."""

from collections.abc import Iterable, Sized
from typing import Literal, NamedTuple

Level = Literal["mend", "look", "fine", "open"]
"""Mend it before training; look at it; nothing found; could not be checked."""


class Finding(NamedTuple):
    """One result of the audit: what was checked, what was found, what to do about it, and who is meant."""

    level: Level
    check: str
    says: str
    do: str = ""
    names: tuple[str, ...] = ()
    """All slides, patients or values that are meant."""

    @property
    def sentence(self) -> str:
        """Finding and way out as one line."""
        return f"{self.says} {self.do}".strip()


def count(number: int, one: str, several: str = "") -> str:
    """A number with its noun.

    >>> count(1, "slide"), count(2100, "slide"), count(2, "copy", "copies")
    ('1 slide', '2,100 slides', '2 copies')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def some(names: Iterable[object], most: int = 3) -> str:
    """The first names of many.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    >>> some(["a", "b"])
    'a and b'
    """
    listed = [str(name) for name in names]
    if len(listed) > most:
        return f"{', '.join(listed[:most])} and {len(listed) - most:,} more"
    return " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)


def verb(items: Sized | int, one: str, several: str) -> str:
    """The verb that goes with so many."""
    return one if (items if isinstance(items, int) else len(items)) == 1 else several
