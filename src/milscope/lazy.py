"""Names that are imported when first used, so that whoever does not need torch does not wait for it."""

import importlib
import sys
from collections.abc import Callable, Mapping


def imported_on_use(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package whose public names live in modules that are slow to import (PEP 562).

    Args:
        package: The package's own `__name__`.
        homes: Name → module that defines it.
    """
    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
