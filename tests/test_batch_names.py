"""The names of a batch's results: patterns, mirrored folders, names that would be the same."""

from __future__ import annotations

import os
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from pipeline.batch_config import BatchConfig, check_names
from pipeline.batch_names import plan_targets
from pipeline.photo_lists import ListedPhoto
from pipeline.quoting import prepare_override
from pipeline.schema import compose

SUFFIXES = st.sampled_from(["jpg", "png", "JPG", "jpeg", "heic"])
SHA = "0123456789abcdef" * 4


def listed(*names: str) -> list[ListedPhoto]:
    return [ListedPhoto(f"/photos/{name}", name) for name in names]


def planned(
    *names: str, pattern: str = "{stem}_edited{suffix}", save: str = "/out", format: str | None = None
) -> list[str]:
    """Where the results of photos go, below /out."""
    targets = plan_targets(listed(*names), pattern, save, format)  # type: ignore[arg-type]
    paths = [os.path.relpath(target.folder / target.name(SHA, target.suffix), "/out") for target in targets]
    assert len({unicodedata.normalize("NFC", path).casefold() for path in paths}) == len(paths)
    return paths


def test_folders_are_mirrored_and_photos_keep_their_names() -> None:
    assert planned("a.jpg", "2024/b.jpeg", "2024/x/c.heic") == [
        "a_edited.jpg",
        "2024/b_edited.jpg",
        "2024/x/c_edited.png",
    ]


def test_names_that_would_be_the_same_all_take_their_suffix() -> None:
    assert planned("a.jpg", "a.png") == ["a_edited.jpg", "a_edited.png"]
    assert planned("a.jpg", "a.png", "b.jpg", format="JPEG") == ["a_jpg_edited.jpg", "a_png_edited.jpg", "b_edited.jpg"]
    assert planned("a.jpg", "a.jpeg") == ["a_jpg_edited.jpg", "a_jpeg_edited.jpg"]
    assert planned("x/a.jpg", "y/a.jpg") == ["x/a_edited.jpg", "y/a_edited.jpg"]


def test_case_and_the_way_of_composing_letters_tell_no_names_apart() -> None:
    upper, lower = planned("A.jpg", "a.jpg")
    assert upper.startswith("A_jpg_") and lower.startswith("a_jpg_") and upper.lower() != lower.lower()
    composed, apart = planned("caf\u00e9.png", "cafe\u0301.png")
    assert composed != apart and composed.endswith("_edited.png")
    first, second = planned("X/a.jpg", "x/a.jpg")
    assert Path(first).name.casefold() != Path(second).name.casefold()


def test_a_name_does_not_depend_on_the_order_of_the_photos() -> None:
    names = ["a.jpg", "A.JPG", "a.png", "a_jpg.png", "b/a.jpg", "a.heic", "c.jpg"]
    expected = dict(zip(names, planned(*names, format="PNG"), strict=True))
    random.Random(3).shuffle(names)
    assert dict(zip(names, planned(*names, format="PNG"), strict=True)) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("aAb"), st.sampled_from(["", "_jpg"]), SUFFIXES), max_size=12, unique=True),
    st.sampled_from([None, "JPEG", "PNG"]),
)
def test_no_two_photos_ever_have_one_name(parts: list[tuple[str, str, str]], format: str | None) -> None:
    found = planned(*(f"{stem}{more}.{suffix}" for stem, more, suffix in parts), format=format)
    assert len({name.casefold() for name in found}) == len(parts)


def test_patterns_hold_what_they_say() -> None:
    assert planned("x/a.jpg", "b.png", pattern="{parent}-{stem}-{number}{suffix}") == ["x/x-a-1.jpg", "photos-b-2.png"]
    assert planned("a.jpg", pattern="{sha8}{suffix}") == ["01234567.jpg"]
    assert planned("{sha8}.jpg", pattern="{{{stem}}}{suffix}") == ["{{sha8}}.jpg"]


def test_beside_the_photo() -> None:
    (target,) = plan_targets(listed("x/a.jpg"), "{stem}_edited{suffix}", "beside", None)
    assert target.folder == Path("/photos/x")


def test_a_photo_of_another_format_than_its_suffix_says_takes_no_other_name() -> None:
    first, second = plan_targets(listed("a.jpg", "a.png"), "{stem}_edited{suffix}", "/out", None)
    assert second.name(SHA, ".jpg") != first.name(SHA, ".jpg") == "a_edited.jpg"
    assert second.name(SHA, ".jpg").startswith("a_edited_") and second.name(SHA, ".jpg").endswith(".jpg")


def test_long_names_leave_room_for_the_rest() -> None:
    long = "é" * 120
    for name in planned(f"{long}.jpg", f"{long}.png", format="JPEG"):
        assert len(os.fsencode(name + ".photodrag.json")) <= 255


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("{stem}", "it must end in {suffix}"),
        ("x{suffix}", "the same name for every photo: put {stem} into it"),
        ("{stem}/{number}{suffix}", "which is no file name"),
        ("{name}{suffix}", "which holds {name}: allowed are {stem}, {suffix}, {parent}, {sha8}, {number}"),
        ("{stem!r}{suffix}", "which holds {stem}"),
        ("{stem:>9}{suffix}", "which holds {stem}"),
        ("{stem.x}{suffix}", "which holds {stem.x}"),
        ("{stem{suffix}", "batch.names is {stem{suffix}"),
        ("..{stem}\0{suffix}", "which is no file name"),
    ],
)
def test_a_pattern_that_could_not_name_files_is_refused(pattern: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_names(pattern)
    assert sentence in str(caught.value)


def test_a_pattern_arrives_from_the_command_line_as_it_is_written() -> None:
    words = ["batch.names={parent}, {stem}${x}{suffix}", "shard=2/8", "max_failures=5", "executor=ray"]
    with pytest.raises(UsageError, match=r"which holds \{x\}"):
        compose([prepare_override(word) for word in words])
    words[0] = "batch.names={parent}, {stem} (new){suffix}"
    config = compose([prepare_override(word) for word in words])
    assert config.batch == BatchConfig("{parent}, {stem} (new){suffix}", "2/8", 5)
    assert config.executor.name == "ray"
