"""Pictures with a structure of their own, and what happens to pictures on their way."""

import io

import numpy as np
from PIL import Image


def drawn_pictures(count, seed=0, side=48):
    """Different pictures of coarse coloured structure, uint8 (count, side, side, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 220, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in coarse])


def encoded(pixels, form="PNG", **options):
    """The bytes of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def shrunken(pixels, side=24):
    """The picture at another size."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def brightened(pixels, factor=1.1):
    """The picture with more light."""
    return np.clip(pixels * factor, 0, 255).astype(np.uint8)
