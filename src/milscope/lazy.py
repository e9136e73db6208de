"""Names that are imported when first used, so that whoever does not need torch does not wait for it."""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType


def import_on_use(package: str, homes: Mapping[str, str]) -> None:
    """Lets a package offer names that live in modules which are slow to import.

    A name may be that of its own module (`milscope.tile` the function lives in `milscope.tile` the module): then the
    package's attribute is always the function, whoever imported the module before.

    Args:
        package: The package's own `__name__`.
        homes: Name → module that defines it.
    """
    class Package(ModuleType):
        def __getattr__(self, name: str) -> object:
            if name not in homes:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            value = getattr(importlib.import_module(homes[name]), name)
            super().__setattr__(name, value)
            return value

        def __setattr__(self, name: str, value: object) -> None:
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    sys.modules[package].__class__ = Package
