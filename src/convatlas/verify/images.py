"""From a picture file to a net's input."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from convatlas.errors import InputError
from convatlas.files import readable, shown
from convatlas.nets.registry import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

SKIMAGE = "skimage:"
# Of Pillow's formats those that photographs come in. The rest serve other purposes; EPS would start Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def locate(source: str) -> Path:
    """The file that `source` means: a path, or scikit-image's bundled "skimage:NAME". Raises InputError when there is none."""
    path = _bundled(source.removeprefix(SKIMAGE)) if source.startswith(SKIMAGE) else Path(source)
    return readable(path, "image")


def load_image(source: str) -> Image.Image:
    """The picture that locate(source) finds, upright and in RGB.

    It reads pictures in one of FORMATS and of any mode: grey (8, 16 and 32 bits), palette, CMYK. What is transparent is laid on
    white, the camera's EXIF orientation is applied, and the first of several frames is taken. Raises InputError, one line, also
    for a picture of more pixels than Pillow accepts as genuine (178,956,970).
    """
    path = locate(source)
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of half as many pixels, of metadata that is odd
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise InputError(
            f"image {shown(source)}: cannot be read: expected a picture in {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # what Pillow's decoders raise for a damaged file is no closed list
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"image {shown(source)}: cannot be read: {line}") from error


def _bundled(name: str) -> Path:
    """One of the pictures in scikit-image's own folder; those it would download are not offered."""
    package = find_spec("skimage")
    if package is None:
        raise InputError(
            f'image {SKIMAGE}{name} comes with scikit-image, which is not installed: pip install "convatlas[demo]"'
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    pictures = {file.stem: file for file in folder.iterdir() if file.suffix in (".png", ".jpg")}
    if name not in pictures:
        raise InputError(
            f"image {SKIMAGE}{shown(name)}: scikit-image brings no such picture, but {', '.join(sorted(pictures))}"
        )
    return pictures[name]


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; what is transparent is laid on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """8-bit grey: 16-bit grey times 255 / 65535; other numbers scaled by their largest, if above 255 (Pillow would clip them)."""
    values = np.asarray(image, np.float64)
    top = 65535.0 if image.mode.startswith("I;16") else max(float(np.nanmax(values, initial=0.0)), 255.0)
    return Image.fromarray(np.nan_to_num(values * (255.0 / top)).clip(0, 255).round().astype(np.uint8))


def crop_middle(image: Image.Image, how: Preprocess) -> Image.Image:
    """The shorter side resized to how.resize, then how.crop x how.crop from the middle, as torchvision rounds both."""
    width, height = image.size
    short = min(width, height)
    if (
        max(width, height) > 4 * short
    ):  # of a thin strip only the middle is ever seen; the rest would be resized for nothing
        left, top = max(0, (width - 4 * short) // 2), max(0, (height - 4 * short) // 2)
        image = image.crop((left, top, min(width, left + 4 * short), min(height, top + 4 * short)))
        width, height = image.size
    size = (how.resize, how.resize * height // width) if width <= height else (how.resize * width // height, how.resize)
    image = image.resize(size, RESAMPLING[how.interpolation])
    left, top = (round((side - how.crop) / 2.0) for side in size)
    return image.crop((left, top, left + how.crop, top + how.crop))


def normalised(pixels: Tensor, how: Preprocess) -> Tensor:
    """(N, 3, H, W), float32, channels_last: (pixel - mean) / std of (N, H, W, 3) pixels, on the device that they are on."""
    values = pixels.float()
    return ((values - values.new_tensor(how.mean)) / values.new_tensor(how.std)).permute(0, 3, 1, 2)


def to_input(image: Image.Image, how: Preprocess) -> Tensor:
    """(1, 3, crop, crop), float32, channels_last: the middle of an RGB picture, normalised."""
    import torch  # here, so that a picture that is not there is found out before torch's import takes seconds

    return normalised(torch.from_numpy(np.array(crop_middle(image, how))).unsqueeze(0), how)
