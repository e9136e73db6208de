"""The recipes of scikit-image's documentation for dark round things, and a lattice that looks at nothing."""

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2hed
from skimage.feature import blob_log, peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from milscope.slides._nuclei import STAINS

Recipe = Callable[[np.ndarray], np.ndarray]
"""Pixels at 1 micron per pixel → column and row of every nucleus, in these pixels."""


def haematoxylin(pixels: np.ndarray) -> np.ndarray:
    """The first plane of scikit-image's colour deconvolution (Ruifrok and Johnston)."""
    return rgb2hed(pixels)[..., 0]


def mixture(pixels: np.ndarray) -> np.ndarray:
    """milscope's mixture of optical densities."""
    return -np.log10(np.maximum(pixels, 1) / 255) @ np.array(STAINS["papanicolaou"])


def otsu(pixels: np.ndarray, *, share: float, area: int, apart: int) -> np.ndarray:
    """Otsu's threshold times `share`, distance transform, its peaks, watershed, centroids."""
    plane = gaussian(haematoxylin(pixels), 1)
    low = plane.min()
    dark = remove_small_objects(plane > low + share * (threshold_otsu(plane) - low), max_size=area)
    depth = distance_transform_edt(dark)
    peaks = peak_local_max(depth, min_distance=apart, labels=label(dark), exclude_border=False)
    markers = np.zeros(dark.shape, dtype=int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    found = regionprops(watershed(-depth, markers, mask=dark))
    return np.array([region.centroid[::-1] for region in found]).reshape(-1, 2)


def blobs(pixels: np.ndarray, *, plane: Callable[[np.ndarray], np.ndarray], small: float, least: float,
          overlap: float) -> np.ndarray:
    """Peaks of the Laplacian of Gaussians over five scales, nuclei of `small` to 14 pixels."""
    found = blob_log(plane(pixels), min_sigma=small / 8**0.5, max_sigma=14 / 8**0.5, num_sigma=5, threshold=least,
                     overlap=overlap, exclude_border=False)
    return found[:, 1::-1]


def lattice(pixels: np.ndarray, *, count: int) -> np.ndarray:
    """So many places in a square lattice over the image."""
    height, width = pixels.shape[:2]
    apart = (height * width / count) ** 0.5
    rows, columns = np.meshgrid(np.arange(apart / 2, height, apart), np.arange(apart / 2, width, apart), indexing="ij")
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def families() -> dict[str, list[Recipe]]:
    """Recipe → all that it is tried with."""
    small = (3.0, 4.5, 6.0)
    grid = {
        "Otsu, distance transform, watershed": (otsu, {"share": (1.6, 1.3, 1.0), "area": (3, 8), "apart": (1, 2, 3)}),
        "blob_log on haematoxylin": (partial(blobs, plane=haematoxylin, overlap=0.5), {
            "least": (0.05, 0.03, 0.02, 0.014, 0.01, 0.005), "small": small}),
        "blob_log on milscope's mixture": (partial(blobs, plane=mixture, overlap=0.5), {
            "least": (0.1, 0.07, 0.04, 0.02), "small": small}),
        "lattice": (lattice, {"count": (100, 200, 400, 800, 1200, 1400, 1600, 1800)}),
    }
    return {family: [partial(recipe, **dict(zip(settings, values, strict=True))) for values in product(*settings.values())]
            for family, (recipe, settings) in grid.items()}
