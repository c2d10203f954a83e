"""The report: everything it shows is inside it, all text is escaped, and its tables tell what the manifest holds."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from pipeline.pictures import (
    PAIR_GAP_PX,
    enlarged,
    jpeg_bytes,
    png_bytes,
    preview,
    read_picture,
    side_by_side,
    split_pair,
)
from pipeline.report import Comparison, Figure, render_report

PNG = png_bytes(np.full((4, 4, 3), 200, np.uint8))


def _manifest(**changes: Any) -> dict[str, Any]:
    stage = {"face": 0, "reused": False, "resumed": False, "seconds": 1.25, "computed_seconds": 1.25}
    manifest = {
        "title": "me & <you>.jpg",
        "status": "done",
        "error": None,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.34,
        "peak_memory_bytes": 1_500_000_000,
        "config": {"photo": "me & <you>.jpg", "seed": 7},
        "seeds": {"seed": 7, "sample": 0},
        "versions": {"torch": "2.0"},
        "device": "cpu",
        "photo": {"path": "me & <you>.jpg", "width": 640, "height": 480, "sha256": "ab" * 32},
        "generator": {"path": "g.safetensors", "sha256": "cd" * 32, "resolution": 64},
        "perceptual": {"name": "face", "reason": "asked for"},
        "stages": [
            {**stage, "stage": "invert", "stop_reason": "cap", "steps": 300},
            {**stage, "stage": "tune", "stop_reason": "target", "steps": 20, "reused": True, "seconds": 0.01},
            {**stage, "stage": "edit", "stop_reason": "arrived", "steps": 5, "resumed": True},
            {**stage, "stage": "blend", "face": None, "changed_fraction": 0.0123},
        ],
        "faces": [{"metrics": {"psnr_invert_db": 21.5, "face_distance_tuned": None}}],
    }
    return {**manifest, **changes}


class _Reader(HTMLParser):
    """Tags, addresses, ids and text of a page; fails on a tag that is closed out of turn."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _page(manifest: dict[str, Any]) -> str:
    comparison = Comparison(Figure(PNG, "image/png", "Photo"), Figure(PNG, "image/png", 'Result "1"'))
    figures = [Figure(PNG, "image/png", "Crop <0>"), Figure(b"video", "video/mp4", "The drag")]
    return render_report(manifest, [comparison], figures)


def test_page_is_well_formed_and_refers_to_nothing_outside() -> None:
    page = _page(_manifest())
    reader = _Reader(page)
    assert len(reader.addresses) == 4
    assert all(address.startswith("data:") for address in reader.addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert base64.b64decode(reader.addresses[0].split(",")[1]) == PNG
    assert base64.b64decode(reader.addresses[3].split(",")[1]) == b"video"
    assert reader.tags.count("video") == 1
    assert "$" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)


def test_names_are_escaped() -> None:
    page = _page(_manifest(error="<script>alert(1)</script>"))
    assert "<you>" not in page
    assert "Crop <0>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert 'alt="Result &quot;1&quot;"' in page


def test_slider_can_be_used_by_keyboard_and_both_colour_schemes_are_styled() -> None:
    page = _page(_manifest())
    assert '<input type="range" min="0" max="100"' in page
    assert 'aria-label="Border between Photo and Result &quot;1&quot;"' in page
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page


def test_tables_tell_timings_reasons_and_measures() -> None:
    text = "\n".join(_Reader(_page(_manifest())).texts)
    assert "took 12.3 s, used at most 1.50 GB of memory" in text
    for part in (
        "cap (all steps done)",
        "target (target loss reached); reused from an earlier run",
        "arrived (every handle arrived); continued from a checkpoint",
        "finished; 1.23% of the photo's pixels changed",
        "PSNR after invert [dB]",
        "21.500",
        "me & <you>.jpg, 640 x 480, sha256 abababababababab",
        "g.safetensors, 64 x 64, sha256 cdcdcdcdcdcdcdcd",
        "face (asked for)",
    ):
        assert part in text
    assert "Face distance after tune" not in text
    settings = next(part for part in _Reader(_page(_manifest())).texts if '"seed": 7' in part)
    assert json.loads(settings) == {"photo": "me & <you>.jpg", "seed": 7}


def test_several_faces_get_a_column_each() -> None:
    faces = [{"metrics": {"psnr_tuned_db": 20.0}}, {"metrics": {"psnr_tuned_db": 30.0, "drag_distance_after_px": 0.5}}]
    texts = _Reader(_page(_manifest(faces=faces))).texts
    row = texts.index("Handle to target after the drag [crop px]")
    assert texts[texts.index("Face 1") + 1] == "Face 2"
    assert texts[row + 1] == "0.500"
    assert texts[texts.index("PSNR after tune [dB]") + 1 :][:2] == ["20.000", "30.000"]


def test_likeness_and_editability_have_tables_that_mark_the_networks_of_the_loss() -> None:
    metrics = {
        **{f"psnr_{region}_native_tuned_db": 30.0 for region in ("whole", "border")},
        "psnr_border_256_invert_db": 21.5,
        "psnr_border_256_tuned_db": 29.25,
        "face_features_tuned": 0.125,
        "landmarks_tuned_percent": 0.75,
        "editability_success_tuned": 0.5,
        "editability_moved_tuned": 0.4,
        "editability_moved_smile_tuned": 0.8,
        "editability_face_distance_smile_tuned": 0.3,
        "editability_moved_slim_tuned": None,
        "editability_face_distance_slim_tuned": None,
        "editability_face_distance_tuned": 0.3,
    }
    stage = {"stage": "measure", "face": 0, "reused": False, "resumed": False, "seconds": 1.0, "computed_seconds": 1.0}
    stage["shared_with_loss"] = ["face_features"]
    manifest = _manifest(faces=[{"metrics": metrics}], stages=[stage])
    texts = [text for text in _Reader(render_report(manifest, [], [])).texts if text.strip()]
    start = texts.index("Likeness to the photo")
    assert texts[start + 1 : start + 9] == [
        *("Measure", "Where", "Pivot", "Tuned"),
        *("PSNR at 256 px [dB]", "border", "21.500", "29.250"),
    ]
    assert texts[texts.index("Face feature distance *") + 1 :][:2] == ["whole", "0.125"]
    assert texts[texts.index("Landmark error [% of the distance between the eyes]") + 1 :][:2] == ["face", "0.750"]
    assert texts.count("PSNR at 64 px (native) [dB]") == 2
    assert not any(text.startswith(("SSIM", "LPIPS")) for text in texts)
    start = texts.index("Editability")
    assert texts[start + 4 : start + 13] == [
        *("smile", "0.800", "0.300"),
        *("slim", "no single face", "no single face"),
        *("mean", "0.400", "0.300"),
    ]
    assert "50% of the presets left one face and made 0.6 of their move or more." in texts[start + 13]


@pytest.mark.parametrize(
    ("status", "words"), [("failed", "The run failed"), ("interrupted", "The run was interrupted")]
)
def test_a_run_that_did_not_finish_says_so(status: str, words: str) -> None:
    page = render_report(_manifest(status=status, error="No space left."), [], [])
    assert words in page
    assert '<p class="failure" role="alert">No space left.</p>' in page
    assert "<h2>Pictures</h2>" not in page


def test_generated_picture_has_no_photo_row() -> None:
    page = render_report(_manifest(photo=None, perceptual=None, faces=[]), [], [])
    assert '<td class="text">Photo</td>' not in page
    assert "<h2>Measures</h2>" not in page


def test_preview_shrinks_and_enlarged_grows_by_whole_numbers() -> None:
    assert preview(np.zeros((3000, 1500, 3), np.uint8)).shape == (1400, 700, 3)
    assert preview(np.zeros((20, 10, 3), np.uint8)).shape == (20, 10, 3)
    assert enlarged(np.zeros((64, 64, 3), np.uint8)).shape == (256, 256, 3)
    assert enlarged(np.zeros((100, 100, 3), np.uint8)).shape == (300, 300, 3)
    assert enlarged(np.zeros((256, 256, 3), np.uint8)).shape == (256, 256, 3)


def test_pair_is_split_into_what_was_joined() -> None:
    before, after = (np.random.default_rng(seed).integers(0, 256, (9, 13, 3), np.uint8) for seed in (0, 1))
    pair = side_by_side(before, after)
    assert pair.shape == (9, 26 + PAIR_GAP_PX, 3)
    first, second = split_pair(pair)
    assert np.array_equal(first, before)
    assert np.array_equal(second, after)


def test_encoded_pictures_keep_pixels_and_profile() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    decoded, icc = read_picture(png_bytes(pixels, b"a profile"))
    assert np.array_equal(decoded, pixels)
    assert icc == b"a profile"
    assert read_picture(jpeg_bytes(pixels, b"a profile"))[1] == b"a profile"
    assert read_picture(png_bytes(pixels[..., 0]))[0].shape == (6, 5, 3)
