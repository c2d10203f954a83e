"""Photographs on disk: reading them upright at their own bit depth, and writing them back without losing anything."""

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import PhotoError, UsageError
from data.files import sync_folder
from data.photo_decode import check_header, decode_photo
from data.photo_encode import DEFAULT_QUALITY, encode_photo
from data.photo_type import Photo, PhotoFormat, Pixels, suffix_for, suffixes_of, to_u8

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "Photo",
    "PhotoFormat",
    "Pixels",
    "check_photo",
    "encode_photo",
    "format_note",
    "read_mask",
    "read_photo",
    "suffix_for",
    "to_u8",
    "write_photo",
]

MAX_PIXELS = 200_000_000
MAX_FILE_BYTES = 2_000_000_000


def read_photo(path: Path | str, max_pixels: int | None = None) -> Photo:
    """The photo in a JPEG, PNG, TIFF, WebP, AVIF or (with the extra `heif`) HEIF file, upright, 8 or 16 bits.

    `max_pixels` (None: MAX_PIXELS) is checked before anything is decoded. Raises PhotoError, one sentence, for files
    that are missing, empty, damaged, too large, or of a kind that cannot be edited (CMYK, Lab, animations,
    float), or when the reader of HEIF is not installed.
    """
    path = Path(path)
    data = _read_bytes(path)
    photo = decode_photo(data, path.name, MAX_PIXELS if max_pixels is None else max_pixels)
    return replace(photo, path=path.absolute(), sha256=hashlib.sha256(data).hexdigest())


def check_photo(path: Path, name: str, max_pixels: int) -> None:
    """Raise PhotoError for what `read_photo` would refuse by the header alone: other kinds of files, too many pixels.

    Nothing is decoded, and only the content counts; `name` only words the errors.
    """
    check_header(_read_bytes(path), name, max_pixels)


def format_note(photo: Photo, format: PhotoFormat | None = None) -> str | None:
    """What to tell the user where the result cannot have the format of the file, None where it can.

    `format`: the format that was asked for, None to keep the photo's own.
    """
    if not photo.source_format or format is not None:
        return None
    return (
        f"{photo.source_format} is read but not written: the result is a {photo.format} of {photo.bits} bits without "
        "loss; blend.format=jpeg makes a smaller file."
    )


def _read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of at most MAX_FILE_BYTES."""
    try:
        if not path.exists():
            raise PhotoError(f"There is no photo {str(path)!r}; check the path.")
        if not path.is_file():
            raise PhotoError(f"{str(path)!r} is not a file; give the path of one photo.")
        # What has become a pipe meanwhile would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            size = os.fstat(file.fileno()).st_size
            data = b"" if size > MAX_FILE_BYTES else file.read(size)
    except OSError as error:
        raise PhotoError(f"The photo {str(path)!r} cannot be read ({error.strerror or error}).") from error
    if size > MAX_FILE_BYTES:
        raise PhotoError(
            f"The file {path.name!r} has {size / 1e9:.1f} GB, more than the limit of {MAX_FILE_BYTES / 1e9:g} GB; "
            "make it smaller first."
        )
    if not data:
        raise PhotoError(f"The file {path.name!r} is empty (0 bytes); give a photo.")
    return data


def write_photo(
    photo: Photo,
    path: Path | str,
    *,
    edited: bool,
    format: PhotoFormat | None = None,
    quality: int = DEFAULT_QUALITY,
    overwrite: bool = False,
    on_reencoded: Callable[[str], None] | None = None,
) -> None:
    """Write the photo to `path` in one step: a reader sees the whole file or none.

    Formats, losses and `on_reencoded` as in `encode_photo`. The file that the photo was read from is never written to,
    another existing file only with `overwrite=True`. Raises PhotoError, one sentence; nothing is then left behind.
    """
    path = Path(path)
    target = format or photo.format
    if path.suffix.lower() not in suffixes_of(target):
        raise PhotoError(
            f"A {target} photo cannot be written to {path.name!r}; give it the suffix {suffix_for(target)}."
        )
    _check_destination(photo, path, overwrite)
    data = encode_photo(photo, edited=edited, format=format, quality=quality, on_reencoded=on_reencoded)
    _write_bytes(path, data, overwrite)


def _check_destination(photo: Photo, path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise PhotoError(f"There is no folder {str(path.parent)!r} to write {path.name!r} into; create it first.")
    if photo.path is not None and _is_same_file(photo.path, path):
        raise PhotoError(f"{str(path)!r} is the input photo, which is never overwritten; give another path.")
    if os.path.lexists(path) and not overwrite:
        raise PhotoError(f"{str(path)!r} exists already and is not overwritten; give another path or remove it.")


def _is_same_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file, through links of either kind; also when the file is not there now."""
    try:
        return first.samefile(second)
    except OSError:
        return first.resolve() == second.resolve()


def _write_bytes(path: Path, data: bytes, overwrite: bool) -> None:
    """Temporary file in the same folder, synced, then moved into place; without `overwrite` never onto a file."""
    temporary = path.parent / f".photodrag-{secrets.token_hex(8)}.tmp"
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                _move_to_new(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise PhotoError(f"{str(path)!r} exists already and is not overwritten; give another path.") from error
    except OSError as error:
        raise PhotoError(f"The photo {str(path)!r} cannot be written ({error.strerror or error}).") from error


def _move_to_new(source: Path, destination: Path) -> None:
    """Rename that fails when the destination appeared meanwhile; file systems without hard links just rename."""
    try:
        os.link(source, destination)
    except FileExistsError:
        raise
    except OSError:
        os.replace(source, destination)


def read_mask(path: Path | str, shape_hw: tuple[int, int], white: str = "may change") -> NDArray[np.float32]:
    """[H,W] float32 in [0,1] of a mask picture in the upright photo's pixels: 1 where what `white` says, 0 (black) not.

    Colours count by their mean, transparency counts as black. Raises UsageError when the size is not `shape_hw`
    or nothing is white, PhotoError when the file cannot be read.
    """
    photo = read_photo(path)
    if photo.shape_hw != tuple(shape_hw):
        (mask_height, mask_width), (height, width) = photo.shape_hw, shape_hw
        raise UsageError(
            f"The mask {Path(path).name!r} has {mask_width} x {mask_height} pixels, but the upright photo has "
            f"{width} x {height}; paint the mask at the size of the photo."
        )
    mask: NDArray[np.float32] = photo.pixels.mean(axis=2, dtype=np.float32)
    mask /= np.float32(photo.max_value)
    if photo.alpha is not None:
        mask *= photo.alpha.astype(np.float32) / np.float32(photo.max_value)
    if not mask.any():
        raise UsageError(
            f"The mask {Path(path).name!r} is black everywhere, so nothing {white}; paint what {white} white."
        )
    return mask
