"""Files: what is said about unusable ones, what may be written where, and masks."""

import hashlib
import io
import os
import stat
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.errors import PhotoError, UsageError
from data.photo import Photo, encode_photo, read_mask, read_photo, write_photo


def noise(height: int, width: int, dtype: type = np.uint8, seed: int = 0) -> NDArray:
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3))
    return values.astype(dtype)


def test_unusable_files_are_explained(tmp_path: Path) -> None:
    def message(name: str, data: bytes | None = None, **options: int) -> str:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(PhotoError) as caught:
            read_photo(tmp_path / name, **options)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")
        return str(caught.value)

    def encoded(image: Image.Image, format: str, **options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, format, **options)
        return out.getvalue()

    photo = Image.fromarray(noise(50, 60))
    assert "There is no photo" in message("absent.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert "is not a file; give the path of one" in message("folder.jpg")
    assert "'empty.png' is empty (0 bytes)" in message("empty.png", b"")
    assert "cannot be read as a JPEG, PNG, TIFF, WebP, HEIC or AVIF photo" in message("text.jpg", b"hello")
    assert "cannot be read as a JPEG" in message("a.gif", encoded(photo, "GIF"))
    assert "has the colour mode CMYK" in message("cmyk.jpg", encoded(photo.convert("CMYK"), "JPEG"))
    assert "has the colour mode F" in message("float.tif", encoded(Image.new("F", (3, 3)), "TIFF"))
    frames = [Image.fromarray(noise(5, 5, seed=i)) for i in range(2)]
    for format in ("WEBP", "PNG"):
        animation = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert "is an animation; photodrag edits still photos" in message(f"a.{format}", animation)
    for format in ("JPEG", "PNG", "TIFF", "WEBP"):
        whole = encoded(photo, format)
        assert f"'{format}' " in message(format, whole[: len(whole) // 2])
        assert "has 60 x 50 pixels (0 MP), more than the limit of 0.002999 MP" in message("b", whole, max_pixels=2999)
    for suffix in (".png", ".tif"):
        _, sixteen = cv2.imencode(suffix, noise(50, 60, dtype=np.uint16))
        assert "an intact copy of it" in message(f"cut{suffix}", sixteen.tobytes()[: sixteen.size // 2])


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">LLBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    genuine = encode_photo(Photo(noise(4, 4)), edited=False)
    (tmp_path / "bomb.png").write_bytes(
        genuine[:16] + header + struct.pack(">L", zlib.crc32(b"IHDR" + header)) + genuine[33:]
    )
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PhotoError, match=r"has 60000 x 60000 pixels \(3600 MP\), more than the limit of 200 MP"):
        read_photo(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_nothing_of_the_user_is_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "me.png"
    source.write_bytes(encode_photo(Photo(noise(5, 5)), edited=False))
    photo = read_photo(source)
    original = source.read_bytes()
    (tmp_path / "link.png").symlink_to(source)
    os.link(source, tmp_path / "hard.png")
    for path in (source, tmp_path / "link.png", tmp_path / "hard.png"):
        with pytest.raises(PhotoError, match="is the input photo, which is never overwritten; give another path"):
            write_photo(photo, path, edited=True, overwrite=True)
    other = tmp_path / "other.png"
    other.write_bytes(b"mine")
    with pytest.raises(PhotoError, match="exists already and is not overwritten"):
        write_photo(photo, other, edited=True)
    assert other.read_bytes() == b"mine"
    assert source.read_bytes() == original
    write_photo(photo, other, edited=True, overwrite=True)
    assert np.array_equal(read_photo(other).pixels, photo.pixels)
    with pytest.raises(PhotoError, match=r"A PNG photo cannot be written to 'me.jpg'; give it the suffix .png"):
        write_photo(photo, tmp_path / "me.jpg", edited=True)
    with pytest.raises(PhotoError, match="There is no folder"):
        write_photo(photo, tmp_path / "absent" / "a.png", edited=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hard.png", "link.png", "me.png", "other.png"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PhotoError, match=r"cannot be written \(No space left on device\)"):
        write_photo(Photo(noise(5, 5)), tmp_path / "a.png", edited=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_photo(Photo(noise(5, 5)), tmp_path / "a.png", edited=True)
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_path_and_hash_of_the_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "Zoë [1] = #2 ${x}.png"
    path.write_bytes(encode_photo(Photo(np.zeros((1, 1, 3), np.uint8)), edited=False))
    photo = read_photo(str(path))
    assert photo.path == path
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_masks(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 51], [255, 255]], np.uint8)).save(path)
    mask = read_mask(path, (2, 2))
    assert mask.dtype == np.float32
    assert np.allclose(mask, [[0, 0.2], [1, 1]])
    assert mask.max() == 1
    painted = np.full((2, 2, 4), 255, np.uint8)
    painted[0, :, 3] = 0
    Image.fromarray(painted).save(path)
    assert np.array_equal(read_mask(path, (2, 2)), [[0, 0], [1, 1]]), "transparent is not painted"
    with pytest.raises(UsageError, match=r"'mask.png' has 2 x 2 pixels, but the upright photo has 4 x 3; paint"):
        read_mask(path, (3, 4))
    Image.new("L", (2, 2)).save(path)
    with pytest.raises(UsageError, match="is black everywhere, so nothing may change"):
        read_mask(path, (2, 2))
