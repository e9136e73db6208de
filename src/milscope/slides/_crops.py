"""Cells from a folder of crops: the files are kept as they are, each decoded once to see that it is whole."""

import os
from collections.abc import Iterator
from pathlib import Path

from milscope.slides._images import Cell, DamagedError, Skip, decode_pixels

CROP_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def list_crops(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change of every crop of a folder, by name; nothing is read.

    Raises:
        OSError: If there is no such folder, or it cannot be listed.
    """
    crops = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(CROP_SUFFIXES) and not entry.name.startswith("."):
                status = _status(entry)
                crops.append((entry.name, status.st_size, status.st_mtime_ns))
    return sorted(crops)


def folder_cells(folder: Path, mpp: float | None) -> Iterator[Cell | Skip]:
    """Every crop of a slide's folder, by name; a damaged one as a `Skip`.

    A crop has no place on the slide; its width and height are those of its image, and its id is the path from the
    folder of all slides, `<slide>/<name>.jpg`. Links are followed inside the folder of all slides, and refused if they
    lead out of it: what they point at may be anybody's.

    Args:
        folder: The crops of one slide, lying directly in it.
        mpp: Microns per pixel of the crops, None if unknown.

    Raises:
        DamagedError: If the folder is missing, cannot be listed, leads out of the folder of all slides, or holds no crop.
    """
    folder = Path(folder)
    try:
        root = folder.parent.resolve(strict=True)
        if not folder.resolve(strict=True).is_relative_to(root):
            raise DamagedError(f"{folder} {_LEADS_OUT} {root}; copy the folder there")
        names = [name for name, _, _ in list_crops(folder)]
    except (OSError, RuntimeError) as error:  # until Python 3.13 a circle of links is a RuntimeError
        raise DamagedError(f"{getattr(error, 'strerror', None) or error}: {folder}") from error
    if not names:
        raise DamagedError(f"no crops ({', '.join(CROP_SUFFIXES)}) in {folder}")
    for name in names:
        cell = f"{folder.name}/{name}"
        try:
            image = _content(folder / name, root)
            height, width = decode_pixels(image).shape[:2]
        except DamagedError as error:
            yield Skip(_printable(cell), str(error))
            continue
        if cell == _printable(cell):
            yield Cell(cell, None, None, float(width), float(height), mpp, image)
        else:
            yield Skip(_printable(cell), "a file name that is not UTF-8; rename the file")


_LEADS_OUT = "is a link that leads out of"


def _content(path: Path, root: Path) -> bytes:
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            raise DamagedError(f"it {_LEADS_OUT} {root}; copy the file there")
        if not path.is_file():  # a folder, or a pipe that would never end
            raise DamagedError("not a file")
        return path.read_bytes()
    except RuntimeError as error:  # until Python 3.13 a circle of links is one
        raise DamagedError(str(error)) from error
    except OSError as error:
        raise DamagedError(error.strerror or str(error)) from error


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _status(entry: os.DirEntry) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a link to nowhere, or in a circle: reading it will say so
        return entry.stat(follow_symlinks=False)
