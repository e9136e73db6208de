"""Small slide files of every format, written as the scanners and tools write them; see the readers' tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import simplejpeg
import tifffile
from jaxtyping import UInt8
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

MPP = 0.5
Picture = UInt8[np.ndarray, "height width 3"]


def smooth_picture(width: int = 1024, height: int = 768) -> Picture:
    """Waves much longer than a pixel of the coarsest level, so that levels can be compared."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 61), np.sin(y / 47), np.sin((x + y) / 83)]
    return np.stack([127 + 100 * wave for wave in waves], axis=2).round().astype(np.uint8)


def smaller(picture: Picture, shrink: int) -> Picture:
    """A level of a pyramid: its side is rounded down."""
    size = (picture.shape[1] // shrink, picture.shape[0] // shrink)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def write_tiff_pyramid(path: Path, picture: Picture, *, tile: int = 128, shrinks: tuple[int, ...] = (1, 2, 4)) -> None:
    """A generic pyramidal TIFF with reduced images after the first page."""
    with tifffile.TiffWriter(path) as file:
        for shrink in shrinks:
            file.write(smaller(picture, shrink), tile=(tile, tile), photometric="rgb", subfiletype=int(shrink > 1),
                       resolutionunit="CENTIMETER", resolution=(10_000 / (MPP * shrink),) * 2, metadata=None,
                       compression="zlib")


def write_aperio(path: Path, picture: Picture, *, tile: int = 128, description: str = "", quality: int = 95) -> None:
    """An SVS as Aperio's scanners write it: JPEG tiles, a thumbnail in strips, then a level of a quarter."""
    height, width = picture.shape[:2]
    told = description or f"Aperio Image Library v11.2.1\r\n{width}x{height} [0,0 {width}x{height}] ({tile}x{tile}) " \
        f"JPEG/RGB Q=70|AppMag = 20|MPP = {MPP}"
    options = {"metadata": None, "software": False, "photometric": "rgb", "compression": "jpeg",
               "subsampling": (1, 1), "compressionargs": {"level": quality}}
    with tifffile.TiffWriter(path) as file:
        file.write(picture, tile=(tile, tile), description=told, **options)
        file.write(smaller(picture, 4), description="Aperio Image Library v11.2.1", **options)
        file.write(smaller(picture, 4), tile=(tile, tile), description="Aperio Image Library v11.2.1", **options)


def write_ome(path: Path, picture: Picture, *, levels: int = 3, tile: int = 128, unit: str = "µm") -> None:
    """An OME-TIFF of a bright-field scan, as Bio-Formats writes it: smaller levels in SubIFDs."""
    side = MPP * {"µm": 1, "nm": 1000, "mm": 1e-3}[unit]
    told = {"axes": "YXS", "PhysicalSizeX": side, "PhysicalSizeXUnit": unit, "PhysicalSizeY": side, "PhysicalSizeYUnit": unit}
    options = {"tile": (tile, tile), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(picture, subifds=levels - 1, metadata=told, **options)
        for level in range(1, levels):
            file.write(smaller(picture, 2**level), subfiletype=1, **options)


def write_striped(path: Path, picture: Picture) -> None:
    """A TIFF in compressed strips, as many cameras write it; OpenSlide does not take it."""
    tifffile.imwrite(path, picture, photometric="rgb", compression="zlib", predictor=True, rowsperstrip=40,
                     resolutionunit="CENTIMETER", resolution=(10_000 / MPP,) * 2, metadata=None)


def write_imagej(path: Path, picture: Picture) -> None:
    """A TIFF as ImageJ and Fiji save it: one uncompressed strip, the scale in pixels per `unit`."""
    tifffile.imwrite(path, picture, imagej=True, resolution=(1 / MPP, 1 / MPP), metadata={"unit": "um"})


def write_plain(path: Path, picture: Picture) -> None:
    """A PNG or BMP, or a JPEG of high quality."""
    Image.fromarray(picture).save(path, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))


def write_dicom(folder: Path, picture: Picture, *, shrinks: tuple[int, ...] = (1, 2, 4), tile: int = 64, jpeg: bool = True,
                series: str = "1.2.826.0.1.3680043.8.498.1") -> None:
    """A DICOM whole slide as a folder, one file a level, tiles in full rows (DICOM PS3.3, A.32.8)."""
    folder.mkdir(exist_ok=True)
    for number, shrink in enumerate(shrinks, 1):
        _write_dicom_level(folder / f"level{number}.dcm", smaller(picture, shrink), shrink, tile, (series, number, jpeg))


def _write_dicom_level(path: Path, level: Picture, shrink: int, tile: int, told: tuple[str, int, bool]) -> None:
    series, number, jpeg = told
    height, width = level.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.pad(level, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
    frames = [np.ascontiguousarray(padded[y : y + tile, x : x + tile])
              for y in range(0, rows * tile, tile) for x in range(0, columns * tile, tile)]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{series}.90", series
    data.Modality, data.InstanceNumber = "SM", number
    data.ImageType = ["ORIGINAL" if shrink == 1 else "DERIVED", "PRIMARY", "VOLUME", "NONE" if shrink == 1 else "RESAMPLED"]
    data.DimensionOrganizationType = "TILED_FULL"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.NumberOfFrames, data.Rows, data.Columns = len(frames), tile, tile
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.TotalPixelMatrixFocalPlanes, data.NumberOfOpticalPaths = 1, 1
    path_of_light, shared, measures = Dataset(), Dataset(), Dataset()
    path_of_light.OpticalPathIdentifier = "0"
    data.OpticalPathSequence = Sequence([path_of_light])
    measures.PixelSpacing = [MPP * shrink / 1000] * 2
    shared.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    if jpeg:
        encoded = [simplejpeg.encode_jpeg(frame, 95, "RGB", "422") for frame in frames]
        data.PixelData = encapsulate([part + b"\0" * (len(part) % 2) for part in encoded])
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"
        data.PhotometricInterpretation = "YBR_FULL_422"
    else:
        data.PixelData = b"".join(frame.tobytes() for frame in frames)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def _as_dicom(path: Path, picture: Picture) -> None:
    write_dicom(path, picture)


FORMATS: dict[str, Callable[[Path, Picture], None]] = {
    "pyramid.tiff": write_tiff_pyramid,
    "aperio.svs": write_aperio,
    "dicom": _as_dicom,
    "bioformats.ome.tif": write_ome,
    "striped.tif": write_striped,
    "imagej.tif": write_imagej,
    "field.png": write_plain,
    "field.jpg": write_plain,
    "field.bmp": write_plain,
}
"""File name → what writes such a file."""
