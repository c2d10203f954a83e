"""What lies at the top of a run folder for the user: result, pictures, video and report of the newest run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import copy_file, remove_file, write_bytes
from pipeline.chain import FaceWork
from pipeline.engine import Stored
from pipeline.manifest import Manifest
from pipeline.outputs import COUNTED, EDITED, MASK, PAIR, RECONSTRUCTION, SAMPLE_PICTURE, VIDEO, BlendFacts
from pipeline.pictures import enlarged, jpeg_bytes, preview, read_picture, split_pair
from pipeline.report import Comparison, Figure, render_report

REPORT = "report.html"
CROP = "crop.png"
MAIN_PRODUCTS = (EDITED, RECONSTRUCTION, SAMPLE_PICTURE, CROP)
"""What counts as the result of a run without `blend`: the first of these that it has."""


def publish(manifest: Manifest, faces: Sequence[FaceWork], blended: Stored[BlendFacts] | None) -> list[Path]:
    """Copy the products of finished stages to the top of the folder and note them in the manifest.

    Returns the main results: the photo, or the edited or reconstructed pictures when the run ended earlier. Products of
    an earlier run that this one does not have are removed there; their stage folders keep them.
    """
    products: dict[str, Path] = {}
    results: list[str] = []
    for face in faces:
        copies = _face_products(face)
        products |= {_of_face(name, face): source for name, source in copies.items()}
        results += [_of_face(name, face) for name in MAIN_PRODUCTS if name in copies][:1]
    if blended is not None:
        products |= {name: blended.folder / name for name in (blended.value.result, MASK, PAIR)}
        results = [blended.value.result]
    for name, source in products.items():
        copy_file(source, manifest.folder / name)
    for name in set(manifest.earlier_products) - set(products) - {REPORT}:
        remove_file(manifest.folder / Path(name).name)
    manifest.data["products"] = {name: "/".join(source.parts[-3:]) for name, source in products.items()}
    manifest.data["result"] = results[0] if results else None
    manifest.data["results"] = results
    return [manifest.folder / name for name in results]


def _of_face(name: str, face: FaceWork) -> str:
    """Name of a product, which for the second and later faces holds the face's number."""
    path = Path(name)
    return name if face.number == 0 else f"{path.stem}_face{face.number + 1}{path.suffix}"


def _face_products(face: FaceWork) -> dict[str, Path]:
    """Name of each product of one face, and the finished stage's file that it is copied from; later stages win."""
    found: dict[str, Path] = {}
    if face.sampled is not None:
        found[SAMPLE_PICTURE] = face.sampled.folder / SAMPLE_PICTURE
    if face.aligned is not None:
        found[CROP] = face.aligned.folder / f"face{face.number}.png"
    for stored, names in (
        (face.inverted, (RECONSTRUCTION, PAIR)),
        (face.fitted, (RECONSTRUCTION, PAIR)),
        (face.dragged, (EDITED, PAIR, VIDEO)),
    ):
        if stored is not None:
            found |= {name: stored.folder / name for name in names if (stored.folder / name).is_file()}
    return found


def write_report(
    manifest: Manifest, faces: Sequence[FaceWork], blended: Stored[BlendFacts] | None, status: str, error: str | None
) -> Path:
    """Render the report of a run that ended with `status` and write it beside the products."""
    figures = [figure for face in faces for figure in _figures(face, len(faces))]
    if blended is not None:
        figures.append(_jpeg(blended.folder / MASK, "White: where the photo may differ"))
    manifest.data["products"][REPORT] = None
    data: dict[str, Any] = {
        **manifest.data,
        "status": status,
        "error": error,
        "seconds": manifest.elapsed_seconds(),
    }
    path = manifest.folder / REPORT
    write_bytes(path, render_report(data, _comparisons(faces, blended), figures).encode())
    return path


def _comparisons(faces: Sequence[FaceWork], blended: Stored[BlendFacts] | None) -> list[Comparison]:
    """The photo before and after, or of a run that ended earlier each face at its last stage."""
    if blended is not None:
        return [_comparison(blended.folder / PAIR, "Photo", "Result")]
    found = []
    for face in faces:
        if face.dragged is not None:
            found.append(_comparison(face.dragged.folder / PAIR, "Before the drag", "After the drag"))
        elif (last := face.fitted or face.inverted) is not None:
            found.append(_comparison(last.folder / PAIR, "Crop", "Reconstruction"))
    return found


def _comparison(pair: Path, before: str, after: str) -> Comparison:
    pixels, icc = read_picture(pair.read_bytes())
    first, second = (jpeg_bytes(half, icc, quality=92) for half in split_pair(pixels))
    return Comparison(Figure(first, "image/jpeg", before), Figure(second, "image/jpeg", after))


def _figures(face: FaceWork, count: int) -> list[Figure]:
    """Every picture of one face in the order of its stages, and the video of its drag."""
    whose = f" (face {face.number + 1})" if count > 1 else ""
    sources: list[tuple[Path, str]] = []
    if face.sampled is not None:
        sources.append((face.sampled.folder / SAMPLE_PICTURE, "Generated picture"))
    if face.aligned is not None:
        sources.append((face.aligned.folder / f"face{face.number}.png", "Aligned crop"))
    if face.inverted is not None:
        counted = face.inverted.folder / COUNTED
        if counted.is_file():
            sources.append((counted, "White: what counted in the inversion"))
        sources.append((face.inverted.folder / RECONSTRUCTION, "Inverted"))
    if face.fitted is not None:
        sources.append((face.fitted.folder / RECONSTRUCTION, "Tuned"))
    if face.dragged is not None:
        sources.append((face.dragged.folder / EDITED, "Dragged"))
    figures = [_jpeg(path, f"{title}{whose}") for path, title in sources]
    video = None if face.dragged is None else face.dragged.folder / VIDEO
    if video is not None and video.is_file():
        caption = f"The drag{whose}: handles red, targets blue"
        figures.append(Figure(video.read_bytes(), "video/mp4", caption))
    return figures


def _jpeg(path: Path, caption: str) -> Figure:
    pixels, icc = read_picture(path.read_bytes())
    return Figure(jpeg_bytes(enlarged(preview(pixels)), icc), "image/jpeg", caption)
