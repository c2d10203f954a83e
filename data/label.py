"""A visible label in a corner of a photo: "AI-edited", or what the user wants to say."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.errors import PhotoError, UsageError
from data.photo_type import Photo

Corner = Literal["top left", "top right", "bottom left", "bottom right"]
CORNERS: tuple[Corner, ...] = ("top left", "top right", "bottom left", "bottom right")

DEFAULT_TEXT = "AI-edited"
LETTERS_OF_SIDE = 0.03
"""Size of the letters as a part of the photo's shorter side."""
SMALLEST_LETTERS_PX = 10
WIDEST_OF_PHOTO = 0.9
NO_LETTER, COMPARED_LETTERS_PX = "\U0010fffe", 40
"""A code point that no font has, and the size at which its box is told from letters."""
BACKGROUND_OPACITY = 0.6
"""Of the black box behind the white letters: they can be read on any photo, and the photo still shows."""


def label_photo(
    photo: Photo, text: str = DEFAULT_TEXT, corner: Corner = "bottom right", font: Path | str | None = None
) -> tuple[Photo, NDArray[np.bool_]]:
    """The photo with white letters on a darkened box in a corner, and [H,W] bool of the pixels that may differ.

    Letters are 3 % of the shorter side, smaller where the text would be wider than nine tenths of the photo; the
    box keeps half a letter clear round them. Everything outside the box stays bit for bit; inside it the photo is
    opaque. font: a TrueType or OpenType file; None for the one that Pillow ships, which has no accents.
    Raises UsageError for an empty text, letters that the font lacks, a font that cannot be read and an unknown corner,
    PhotoError for a photo with no room for letters of 10 px.
    """
    if corner not in CORNERS:
        raise UsageError(f"The corner of the label is {corner!r}; allowed are {', '.join(CORNERS)}.")
    text = " ".join(text.split())
    if not text:
        raise UsageError("The text of the label is empty; give some, such as 'AI-edited'.")
    missing = _missing(text, font)
    if missing:
        raise UsageError(
            f"The label's font has no letter for {missing!r} in {text!r}; give a text in plain Latin letters or "
            "another font file."
        )
    letters = _letters(text, photo.shape_hw, font)
    height, width = letters.shape
    spare = min(photo.shape_hw[0] - height, photo.shape_hw[1] - width)
    margin = min(max(1, height // 4), spare // 2)
    top = margin if corner.startswith("top") else photo.shape_hw[0] - margin - height
    left = margin if corner.endswith("left") else photo.shape_hw[1] - margin - width
    box = (slice(top, top + height), slice(left, left + width))
    mask = np.zeros(photo.shape_hw, np.bool_)
    mask[box] = True
    pixels = photo.pixels.copy()
    dark = pixels[box].astype(np.float64) * (1 - BACKGROUND_OPACITY)
    cover = letters[..., None].astype(np.float64) / 255
    pixels[box] = np.rint(dark + cover * (photo.max_value - dark)).astype(pixels.dtype)
    alpha = photo.alpha
    if alpha is not None:
        alpha = alpha.copy()
        alpha[box] = photo.max_value
    return replace(photo, pixels=pixels, alpha=alpha), mask


def _font(file: Path | str | None, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if file is None:
        return ImageFont.load_default(size_px)
    try:
        return ImageFont.truetype(str(file), size_px)
    except OSError as error:
        raise UsageError(
            f"The font {str(file)!r} cannot be read ({error}); give a TrueType or OpenType file."
        ) from error


def _missing(text: str, file: Path | str | None) -> str:
    """The first letter of the text that the font lacks (it would be drawn as a box), "" where it has all."""
    font = _font(file, COMPARED_LETTERS_PX)
    lacking = bytes(font.getmask(NO_LETTER))
    return next((letter for letter in text if bytes(font.getmask(letter)) == lacking and letter != " "), "")


def _letters(text: str, shape_hw: tuple[int, int], font: Path | str | None) -> NDArray[np.uint8]:
    """[h,w] uint8 of how much each pixel of the box is covered by the text, at the size that suits the photo."""
    height, width = shape_hw
    size = max(SMALLEST_LETTERS_PX, round(LETTERS_OF_SIDE * min(height, width)))
    drawn = _drawn(text, size, font)
    if drawn.shape[1] > WIDEST_OF_PHOTO * width:
        size = max(SMALLEST_LETTERS_PX, int(size * WIDEST_OF_PHOTO * width / drawn.shape[1]))
        drawn = _drawn(text, size, font)
    if drawn.shape[0] + 2 > height or drawn.shape[1] + 2 > width:
        raise PhotoError(
            f"A photo of {width} x {height} pixels has no room for the label {text!r}, which needs at least "
            f"{drawn.shape[1] + 2} x {drawn.shape[0] + 2}; leave the label out or shorten it."
        )
    return drawn


def _drawn(text: str, size_px: int, file: Path | str | None) -> NDArray[np.uint8]:
    """[h,w] uint8 of a text in letters of that size, with a margin of half a letter round it."""
    font = _font(file, size_px)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    margin = (size_px + 1) // 2
    image = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=255, font=font)
    return np.asarray(image)
