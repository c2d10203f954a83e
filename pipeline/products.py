"""What lies at the top of a run folder for the user: result, pictures, video and report of the newest run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import copy_file, remove_file, write_bytes
from pipeline.curves import run_curves
from pipeline.delivery import Inputs
from pipeline.edits import EDITS, edits_json
from pipeline.engine import Stored
from pipeline.frames import FPS, projection_frames, read_path
from pipeline.gif import gif_bytes
from pipeline.latents import LATENT, latent_files, latent_metadata
from pipeline.manifest import Manifest
from pipeline.outputs import BETWEEN, COUNTED, EDITED, MASK, PAIR, RECONSTRUCTION, SAMPLE_PICTURE, VIDEO, BlendFacts
from pipeline.pictures import enlarged, image_u8, jpeg_bytes, preview, read_picture, split_pair
from pipeline.report import Comparison, Figure, render_report
from pipeline.video import read_video, video_bytes
from pipeline.work import FaceWork

REPORT = "report.html"
CROP = "crop.png"
CURVES = "curves.png"
PROJECTION = "projection.mp4"
GIF = "edit.gif"
BETWEEN_CAPTION = "The tuned generator on the way from face to face"
MAIN_PRODUCTS = (EDITED, RECONSTRUCTION, SAMPLE_PICTURE, CROP)
"""What counts as the result of a run without `blend`: the first of these that it has."""


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """A product that no stage stores, made anew from one: its content, and the finished stage's folder."""

    content: bytes
    folder: Path


def publish(
    manifest: Manifest, faces: Sequence[FaceWork], blended: Stored[BlendFacts] | None, kept: Inputs
) -> list[Path]:
    """Copy the products of finished stages to the top of the folder and note them in the manifest.

    Returns the main results: the photo, or the edited or reconstructed pictures when the run ended earlier. Products of
    an earlier run that this one does not have are removed there, but for those in `kept`, which this command reads;
    their stage folders keep them.
    """
    products: dict[str, Path] = {}
    results: list[str] = []
    for face in faces:
        copies = _face_products(face)
        products |= {_of_face(name, face): source for name, source in copies.items()}
        results += [_of_face(name, face) for name in MAIN_PRODUCTS if name in copies][:1]
    if (between := _between(faces)) is not None:
        products[BETWEEN] = between
    if blended is not None:
        products |= {name: blended.folder / name for name in (blended.value.result, MASK, PAIR)}
        results = [blended.value.result]
    for name, source in products.items():
        copy_file(source, manifest.folder / name)
    made = {_of_face(name, face): item for face in faces for name, item in _made_products(face, manifest.data).items()}
    for name, item in made.items():
        write_bytes(manifest.folder / name, item.content)
    earlier = {Path(name).name for name in manifest.earlier_products} - set(products) - set(made) - {REPORT}
    stay = {name for name in earlier if kept.holds(manifest.folder / name)}
    for name in earlier - stay:
        remove_file(manifest.folder / name)
    sources = {name: "/".join(source.parts[-3:]) for name, source in products.items()}
    manifest.data["products"] = sources | {name: "/".join(item.folder.parts[-2:]) for name, item in made.items()}
    manifest.data["products"] |= dict.fromkeys(sorted(stay))
    manifest.data["result"] = results[0] if results else None
    manifest.data["results"] = results
    return [manifest.folder / name for name in results]


def _between(faces: Sequence[FaceWork]) -> Path | None:
    """The video of the way between the faces that share a tuning; None without such a tuning."""
    videos = [face.fitted.folder / BETWEEN for face in faces if face.fitted is not None]
    return next((video for video in videos if video.is_file()), None)


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


def _made_products(face: FaceWork, manifest: Mapping[str, Any]) -> dict[str, Made]:
    """Of a face that was inverted: its losses as a chart, its latent as files, and the video of the way there; of one
    that was edited the list of its edits and, with `edit.gif`, its video as a GIF."""
    found: dict[str, Made] = {}
    if face.dragged is not None and manifest["config"]["edit"]["gif"] and (face.dragged.folder / VIDEO).is_file():
        frames = read_video(face.dragged.folder / VIDEO)
        found[GIF] = Made(gif_bytes(frames, face.dragged.value.fps), face.dragged.folder)
    if face.dragged is not None and face.dragged.value.told:
        found[EDITS] = Made(edits_json(face.dragged.value.told), face.dragged.folder)
    if face.inverted is None:
        return found
    folder = face.inverted.folder if face.fitted is None else face.fitted.folder
    found |= {CURVES: Made(run_curves(histories_of(face)), folder)}
    files = latent_files(face.inverted.value.inversion, latent_metadata(manifest, face.number))
    found |= {f"{LATENT}{suffix}": Made(content, face.inverted.folder) for suffix, content in files.items()}
    video = _projection(face)
    return found if video is None else {**found, PROJECTION: Made(video, folder)}


def histories_of(face: FaceWork) -> dict[str, dict[str, list[float]]]:
    """The losses of a face's optimisations by stage."""
    found = {}
    if face.inverted is not None:
        found["invert"] = face.inverted.value.inversion.history
    if face.fitted is not None:
        found["tune"] = face.fitted.value.tuned.history
    return found


def _projection(face: FaceWork) -> bytes | None:
    """The video of inversion and tuning beside the crop, None when no frames were kept."""
    assert face.inverted is not None
    paths = [read_path(face.inverted.folder, "Inversion", image_u8(face.inverted.value.inversion.image))]
    if face.fitted is not None:
        paths.append(read_path(face.fitted.folder, "Tuning", image_u8(face.fitted.value.tuned.image)))
    kept = [path for path in paths if path is not None]
    return video_bytes(projection_frames(image_u8(face.inverted.value.target), kept), FPS) if kept else None


def write_report(
    manifest: Manifest, faces: Sequence[FaceWork], blended: Stored[BlendFacts] | None, status: str, error: str | None
) -> Path:
    """Render the report of a run that ended with `status` and write it beside the products."""
    figures = [figure for face in faces for figure in _figures(face, _whose(face, len(faces)))]
    if blended is not None:
        figures.append(_jpeg(blended.folder / MASK, "White: where the photo may differ"))
    for face in faces:
        figures += _wide_figures(face, _whose(face, len(faces)), manifest.folder)
    if (between := _between(faces)) is not None:
        figures.append(Figure(between.read_bytes(), "video/mp4", BETWEEN_CAPTION, wide=True))
    manifest.data["products"][REPORT] = None
    data: dict[str, Any] = {
        **manifest.data,
        "status": status,
        "error": error,
        "seconds": manifest.elapsed_seconds(),
    }
    path = manifest.folder / REPORT
    write_bytes(path, render_report(data, _comparisons(faces, blended), figures).encode("utf-8", "xmlcharrefreplace"))
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


def _whose(face: FaceWork, count: int) -> str:
    """What a caption says of the face it belongs to, nothing when there is only one."""
    return f" (face {face.number + 1})" if count > 1 else ""


def _figures(face: FaceWork, whose: str) -> list[Figure]:
    """Every picture of one face in the order of its stages, and the video of its drag."""
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
        dragged = face.dragged is not None and len(face.dragged.value.targets)
        caption = f"The drag{whose}: handles red, targets blue" if dragged else f"The way along the direction{whose}"
        figures.append(Figure(video.read_bytes(), "video/mp4", caption))
    return figures


def _wide_figures(face: FaceWork, whose: str, run_folder: Path) -> list[Figure]:
    """The video of one face's way to its reconstruction, and its losses, as they lie in the run folder."""
    wide = (
        (PROJECTION, "video/mp4", "From the start to the reconstruction, beside the photo"),
        (CURVES, "image/png", "Losses at each step"),
    )
    paths = [(run_folder / _of_face(name, face), media_type, title) for name, media_type, title in wide]
    return [
        Figure(path.read_bytes(), media_type, f"{title}{whose}", wide=True)
        for path, media_type, title in paths
        if face.inverted is not None and path.is_file()
    ]


def _jpeg(path: Path, caption: str) -> Figure:
    pixels, icc = read_picture(path.read_bytes())
    return Figure(jpeg_bytes(enlarged(preview(pixels)), icc), "image/jpeg", caption)
