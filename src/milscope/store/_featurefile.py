"""One slide's features in a file, HDF5 or npy, of ours or of another tool: checked before anything is read."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from types import TracebackType

import h5py
import numpy as np
import torch
from jaxtyping import Float

from milscope.types import InputError, refuse

DATASETS = ("features", "feats")
"""What TRIDENT and CLAM call the features, and what STAMP does."""
DENSEST = 1100
"""No compression that HDF5 comes with shrinks data more than this; a file that claims more is damaged or a trap."""


class FeatureFile:
    """A slide's features, open for reading.

    Args:
        path: An HDF5 file with a dataset `features` or `feats`, or an npy file; (cell, feature), or (1, cell, feature)
            as some tools write it, of float16, float32 or float64.

    Raises:
        InputError: If the file cannot be read, or holds no such array, or keeps it in other files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: h5py.File | None = None
        self.name = DATASETS[0]
        try:
            with told(path):
                if path.suffix == ".npy":
                    self._data = np.load(path, mmap_mode="r", allow_pickle=False)
                else:
                    self.file = h5py.File(path)
                    self._data = self._dataset(self.file)
                self._check()
        except InputError:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.file is not None:
            self.file.close()

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and width of the features."""
        return self._data.shape[-2:]

    def attributes(self, names: Sequence[str]) -> dict[str, object]:
        """Those of the attributes of the file, of its features and of its `coords` that are there; of an npy file none."""
        if self.file is None:
            return {}
        with told(self.path):  # only those asked for: what is not read cannot crash the HDF5 library if it is damaged
            owners = [self.file, self._data, *(self.file[name] for name in ("coords",) if name in self.file)]
            return {name: owner.attrs[name] for owner in owners for name in names if name in owner.attrs}

    def column(self, name: str) -> np.ndarray | None:
        """Another array with one row a cell: a dataset of the file, or of an npy file its namesake in the folder `name`.

        Raises:
            InputError: If it has not as many rows as there are cells, or cannot be read.
        """
        with told(self.path):
            if self.file is None:  # torchmil: beside features/ or features/features_X/
                beside = [folder / name / self.path.name for folder in self.path.parents[1:3]]
                found = [np.load(path, mmap_mode="r", allow_pickle=False) for path in beside if path.exists()][:1]
            else:
                found = [self.file[name]] if isinstance(self.file.get(name), h5py.Dataset) else []
            for data in found:
                rows = data.shape[1:2] if data.ndim == 3 and data.shape[0] == 1 else data.shape[:1]
                if rows != self.shape[:1] or data.size > 8 * self.shape[0]:
                    raise ValueError(f"`{name}` of shape {data.shape} for {self.shape[0]} cells")
                return data[0] if data.ndim == 3 else data[...]
        return None

    def read_into(self, out: Float[np.ndarray, "cell feature"]) -> None:
        """Fills `out`, of float32 and of this shape, with the features; nothing is copied if they are float32 on disk."""
        with told(self.path):
            if self.file is not None and self._data.dtype == np.float32:
                self._data.read_direct(out.reshape(self._data.shape))
            elif self._data.dtype == np.float16:  # torch converts half precision 15 times faster than numpy or HDF5
                half = np.require(self._data[...], requirements=["C", "W"]).reshape(out.shape)
                torch.from_numpy(out).copy_(torch.from_numpy(half))
            else:
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which training refuses
                    out[...] = self._data[...].reshape(out.shape)

    def _dataset(self, file: h5py.File) -> h5py.Dataset:
        self.name = next((name for name in DATASETS if name in file), "")
        if not self.name:
            raise refuse(str(self.path), "an HDF5 file with a dataset `features` or `feats`", f"{', '.join(file) or 'none'}",
                         "Give the folder that the features were written to.")
        data = file[self.name]
        if not isinstance(data, h5py.Dataset) or data.file.filename != file.filename or data.external or data.is_virtual:
            raise refuse(f"{self.path}:{self.name}", "an array that the file itself holds", "a group or a link to other files",
                         "Write the features into the file.")
        return data

    def _check(self) -> None:
        data, name = self._data, str(self.path)
        if data.dtype.kind != "f" or data.dtype.itemsize not in (2, 4, 8):
            raise refuse(name, "float16, float32 or float64", f"{data.dtype}", "Write the features as float32.")
        if data.ndim == 1 or (data.size == data.shape[-1] and self._of_a_patient()):
            raise refuse(name, "features of a slide's cells, one row a cell", "one vector for the whole slide",
                         "Give the folder of the cells' or tiles' features.")
        if data.ndim != 2 and (data.ndim != 3 or data.shape[0] != 1):
            raise refuse(name, "features of the shape (cell, feature)", f"the shape {data.shape}", "Write them so.")
        if math.prod(data.shape) * data.dtype.itemsize > DENSEST * self.path.stat().st_size:
            raise refuse(name, "a whole file", f"{data.shape} values in {self.path.stat().st_size} bytes", "Make it again.")

    def _of_a_patient(self) -> bool:
        """Whether STAMP says that the one vector of the file is a slide's or a patient's."""
        return text(self.attributes(("feat_type",)).get("feat_type", "tile")) != "tile"


_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, EOFError, MemoryError, SyntaxError,
           TokenError)
"""What h5py and numpy raise at damaged files."""


def text(value: object) -> str:
    """An attribute as text, whether HDF5 keeps it as text or bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@contextmanager
def told(path: Path) -> Generator[None]:
    """Whatever the libraries say about a file that they cannot read becomes one line that names it."""
    try:
        yield
    except InputError:
        raise
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise refuse(str(path), "a whole file of features that can be read", reason,
                     "Make it again, or take the slide out of the table.") from error
