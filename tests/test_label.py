"""The visible label: where it is, that it can be read, and that nothing outside its box changes."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from data.errors import PhotoError, UsageError
from data.label import CORNERS, label_photo
from data.photo import Photo, encode_photo
from data.photo_decode import decode_photo


def grey_photo(height: int, width: int, dtype: type = np.uint8, **options: object) -> Photo:
    level = np.iinfo(dtype).max // 2
    return Photo(np.full((height, width, 3), level, dtype), **options)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(600, 800), (2000, 300), (40, 900)])
def test_the_label_stands_in_its_corner_and_nothing_else_changes(
    shape: tuple[int, int], dtype: type, corner: str
) -> None:
    photo = grey_photo(*shape, dtype, mode="L")
    labelled, mask = label_photo(photo, corner=corner)
    changed = (labelled.pixels != photo.pixels).any(axis=2)
    assert mask.dtype == np.bool_ and mask.shape == shape
    assert changed.any() and not (changed & ~mask).any()
    rows, columns = np.nonzero(mask)
    assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "one box"
    assert mask.mean() < 0.2
    middle_y, middle_x = rows.mean() / shape[0], columns.mean() / shape[1]
    assert (middle_y < 0.5) == corner.startswith("top") or shape[0] < 50
    assert (middle_x < 0.5) == corner.endswith("left")
    inside = labelled.pixels[mask].astype(float) / photo.max_value
    assert inside.max() > 0.85 and inside.min() < 0.25, "white letters on a dark ground"
    assert 0.02 < (inside[:, 0] > 0.8).mean() < 0.5
    assert np.array_equal(labelled.pixels[..., 0], labelled.pixels[..., 2]), "grey stays grey"
    assert decode_photo(encode_photo(labelled, edited=True), "x", 10**7).is_grey


def test_the_letters_grow_with_the_photo() -> None:
    heights = [np.ptp(np.nonzero(label_photo(grey_photo(side, side))[1])[0]) for side in (400, 800, 1600)]
    assert heights[2] > 1.7 * heights[1] > 2.8 * heights[0]


def test_a_label_on_transparency_is_opaque() -> None:
    for mode in ("RGBA", "RGBa"):
        photo = Photo(np.zeros((200, 300, 3), np.uint8), alpha=np.zeros((200, 300), np.uint8), mode=mode, format="TIFF")
        labelled, mask = label_photo(photo, "Made  with\na model")
        assert (labelled.alpha[mask] == 255).all()
        assert not labelled.alpha[~mask].any()
        assert not photo.alpha.any() and not photo.pixels.any(), "the photo that was given stays as it was"


def test_another_font_brings_the_letters_that_the_shipped_one_lacks() -> None:
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    labelled, mask = label_photo(grey_photo(600, 900), "Modifié par l'IA", font=font)
    assert (labelled.pixels[mask] > 200).any()


def test_labels_that_do_not_fit_and_wrong_corners_are_refused() -> None:
    with pytest.raises(
        PhotoError, match=r"A photo of 1 x 500 pixels has no room for the label 'AI-edited', which needs"
    ):
        label_photo(grey_photo(500, 1))
    with pytest.raises(PhotoError, match="leave the label out or shorten it"):
        label_photo(grey_photo(300, 300), "word " * 200)
    with pytest.raises(UsageError, match="The text of the label is empty"):
        label_photo(grey_photo(300, 300), " \n")
    with pytest.raises(UsageError, match="has no letter for '画' in '画 AI'; give a text in plain Latin letters or"):
        label_photo(grey_photo(300, 300), "画 AI")
    label_photo(grey_photo(2000, 9000), "".join(chr(code) for code in range(33, 127)))
    with pytest.raises(UsageError, match=r"The font 'absent.ttf' cannot be read \(.*\); give a TrueType or OpenType"):
        label_photo(grey_photo(300, 300), font="absent.ttf")
    with pytest.raises(UsageError, match="The corner of the label is 'middle'; allowed are top left, top right,"):
        label_photo(grey_photo(300, 300), corner="middle")
    for height in range(10, 40):
        try:
            _, mask = label_photo(grey_photo(height, 100))
        except PhotoError:
            continue
        assert mask.any(), "a box at the very edge is still a box"
