"""The stages of a run, typed in and typed out: thin calls into data, inversion and editing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data.alignment import (
    Alignment,
    Crop,
    align_center,
    align_ffhq,
    align_precropped,
    align_quad,
    crop_photo,
)
from data.colour import ColourSpace, colour_space
from data.errors import NoFaceError
from data.files import file_sha256
from data.landmarks import choose_faces, find_faces
from data.photo import Photo, PhotoFormat, read_mask
from editing.directions import move_along, parse_direction, parse_layers, pick_direction
from editing.drag import DragSettings
from editing.drag_task import Person
from editing.landmark_drag import LandmarkSettings, drag_landmarks
from editing.masks import EYES_APART, automatic_mask
from editing.points import Drag
from editing.pose import pose_drag, pose_landmarks
from editing.presets import preset_drag, preset_landmarks
from editing.published import PublishedSettings, drag_published
from editing.seen_drag import drag_until_seen
from inversion.generators.protocol import Generator, NoiseMaps
from inversion.identity import FaceNetwork
from inversion.losses import Counting, Targets, psnr_db, whole_face_descriptor
from inversion.optimisation import check_numbers
from inversion.perceptual import WHOLE_AND_FACE_VIEWS, Perceptual, cut_view
from inversion.pivotal import Tuned, tune
from inversion.projector import Inversion, project
from pipeline.by_hand import drag_by_hand
from pipeline.counting import counting_of, drawn_part, landmarks_of, mask_on_crop, mask_on_photo
from pipeline.edits import EditStep, greatest_mask
from pipeline.engine import Attempt, Stored
from pipeline.frames import Draw, FrameKeeper, draw_latent, draw_weights, without_frames
from pipeline.locating import LandmarkLocator
from pipeline.optimiser_settings import projector_settings, tune_settings
from pipeline.outputs import VIDEO, Aligned, Dragged, Fitted, Inverted, Sampled
from pipeline.pictures import image_u8
from pipeline.posing import pose_towards
from pipeline.progress import Console, checkpointed_steps, stoppable_steps
from pipeline.video import read_video, thinned

if TYPE_CHECKING:
    from pipeline.models import LoadedGenerator
    from pipeline.schema import AlignConfig, EditConfig, InvertConfig, SampleConfig, TuneConfig

S = TypeVar("S", DragSettings, PublishedSettings)

FACE_VIEW = WHOLE_AND_FACE_VIEWS[1]
"""The part of an FFHQ crop that dlib's face network was trained to see."""
FORMATS: dict[str, PhotoFormat | None] = {
    "keep": None,
    "jpeg": "JPEG",
    "png": "PNG",
    "tiff": "TIFF",
    "webp": "WEBP",
}


@dataclass(frozen=True, eq=False, slots=True)
class Tools:
    """What the optimising stages share: the perceptual distance, the face network of the metrics, where to report."""

    perceptual: Perceptual
    face_network: FaceNetwork | None
    console: Console
    seed: int
    device: torch.device
    speed: str


def align(photo: Photo, config: AlignConfig, resolution: int) -> Aligned:
    """Crops of `resolution` pixels in sRGB; of a face photo one for each face that `align.face` means, largest first.

    Raises NoFaceError when no face is found, UsageError when the photo does not suit the method.
    """
    crops = [crop_photo(photo.pixels, alignment) for alignment in _alignments(photo, config, resolution)]
    space = colour_space(photo.icc)
    if space is None:
        return Aligned(crops)
    return Aligned([replace(crop, image=_as_srgb(crop.image, space)) for crop in crops])


def _as_srgb(image: np.ndarray, space: ColourSpace) -> np.ndarray:
    """A crop's picture [1, 3, R, R] in [-1, 1]."""
    return np.ascontiguousarray(space.to_srgb(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))


def _alignments(photo: Photo, config: AlignConfig, resolution: int) -> list[Alignment]:
    shape = photo.shape_hw
    if config.method == "ffhq":
        faces = choose_faces(find_faces(photo.to_u8(), config.upsample_max), config.face)
        return [align_ffhq(face.landmarks, shape, resolution, face_index=index) for index, face in faces]
    if config.method == "quad":
        assert config.quad is not None
        return [align_quad(config.quad, shape, resolution)]
    return [(align_precropped if config.method == "precropped" else align_center)(shape, resolution)]


def invert(
    generator: LoadedGenerator, crop: Crop, tools: Tools, config: InvertConfig, attempt: Attempt, title: str
) -> Inverted:
    """The crop in latent space, with its likeness over the pixels that count."""
    frames = _frame_keeper(config.frame_every, draw_latent(generator.module), attempt)
    counting = counting_of(config, crop, generator.module, generator.stats, tools.perceptual, tools.seed, tools.device)
    targets = targets_of([crop], counting, tools)
    rng = torch.Generator().manual_seed(tools.seed)
    resume = on_device(attempt.resume, tools.device)
    with checkpointed_steps(tools.console, title, attempt.checkpoints, config.checkpoint_every, frames) as on_step:
        settings = projector_settings(config, tools.speed)
        inversion = project(generator.module, targets, settings, rng, resume, on_step, generator.stats)
    return inverted(inversion, targets.pictures, counting, config, tools, None if frames is None else frames.tensors())


def inverted(
    inversion: Inversion,
    target: Tensor,
    counting: Counting,
    config: InvertConfig,
    tools: Tools,
    frames: Mapping[str, Tensor] | None,
) -> Inverted:
    """An inversion of target [1, 3, R, R] with its likeness over the pixels that count."""
    measured = likeness("invert", inversion.image, target, counting.mask, tools.face_network)
    rest_stays = config.mask not in ("none", "face", "hull")
    return Inverted(inversion, target, measured, counting, rest_stays, frames)


def _frame_keeper(every_steps: int, draw: Draw, attempt: Attempt) -> FrameKeeper | None:
    """What keeps an optimisation's frames, from those of its checkpoint on; None when none are wanted."""
    return FrameKeeper(every_steps, draw, attempt.resume) if every_steps else None


def tune_around(
    generator: Generator,
    base_sha256: str,
    crop: Crop,
    inverted: Inverted,
    tools: Tools,
    config: TuneConfig,
    frame_every: int,
    attempt: Attempt,
    title: str,
) -> Fitted:
    """The generator fitted around the inversion where that counted, with its likeness over the same pixels.

    frame_every: steps between the frames of the projection video, 0 for none.
    """
    inversion = inversion_on(inverted.inversion, tools.device)
    frames = _frame_keeper(frame_every, draw_weights(generator, inversion), attempt)
    counting = counting_on(inverted.counting, tools.device)
    if counting.mask is None:
        counting = replace(counting, mask=drawn_part(crop, generator).to(tools.device))
    targets = targets_of([crop], counting, tools)
    rng = torch.Generator().manual_seed(tools.seed)
    with checkpointed_steps(tools.console, title, attempt.checkpoints, config.checkpoint_every, frames) as on_step:
        settings, resume = tune_settings(config, tools.speed), on_device(attempt.resume, tools.device)
        tuned = tune(generator, targets, inversion, settings, rng, resume, on_step, base_sha256)
    return fitted(tuned, targets.pictures, counting.mask, tools, None if frames is None else frames.tensors())


def fitted(
    tuned: Tuned,
    target: Tensor,
    mask: Tensor | None,
    tools: Tools,
    frames: Mapping[str, Tensor] | None,
    between: bytes | None = None,
) -> Fitted:
    """A tuning for target [1, 3, R, R] with its likeness over the pixels that count."""
    return Fitted(tuned, target, likeness("tuned", tuned.image, target, mask, tools.face_network), frames, between)


def targets_of(crops: Sequence[Crop], counting: Counting, tools: Tools) -> Targets:
    """The crops as targets of an inversion or a tuning, on the device."""
    pictures = torch.cat([torch.from_numpy(crop.image) for crop in crops]).to(tools.device)
    detail_px = max(crop.alignment.size * crop.alignment.photo_px_per_crop_px for crop in crops)
    return Targets(pictures, tools.perceptual, counting, tools.face_network, detail_px)


def counting_on(counting: Counting, device: torch.device) -> Counting:
    """Where a target counts, on the device."""
    return Counting(*(None if x is None else x.to(device) for x in (counting.mask, counting.focus)))


def on_device(state: dict[str, Any] | None, device: torch.device) -> dict[str, Any] | None:
    """The optimisation's own tensors of a checkpoint on the device; the random generator's state stays on the CPU."""
    state = without_frames(state)
    if state is None:
        return None
    moved = {name: value.to(device) for name, value in state.items() if isinstance(value, Tensor) and name != "rng"}
    return {**state, **moved}


def inversion_on(inversion: Inversion, device: torch.device) -> Inversion:
    """The inversion with its tensors on the device."""
    noise = {name: value.to(device) for name, value in inversion.noise.items()}
    return replace(inversion, w=inversion.w.to(device), noise=noise, image=inversion.image.to(device))


@torch.no_grad()
def likeness(
    stage: str, image: Tensor, target: Tensor, mask: Tensor | None, face_network: FaceNetwork | None
) -> dict[str, float]:
    """`psnr_<stage>_db` over the pixels that count and `face_distance_<stage>` between dlib's face descriptors.

    image, target [1, 3, R, R] in [-1, 1]; mask [1, 1, R, R]. The same person has a face distance below about 0.6.
    """
    found = {f"psnr_{stage}_db": psnr_db(image, target, mask)}
    if face_network is not None:
        first, second = (face_network.descriptor(cut_view(x.clamp(-1, 1), FACE_VIEW)) for x in (image, target))
        found[f"face_distance_{stage}"] = float((first - second).norm())
    return found


def sample(generator: Generator, config: SampleConfig, device: torch.device) -> Sampled:
    """A generated picture: the mapped z of `sample.seed`, truncated towards the average by `sample.psi`."""
    rng = torch.Generator().manual_seed(config.seed)
    z = torch.randn(1, generator.z_dim, generator=rng).to(device)
    labels = torch.zeros(1, generator.c_dim, device=device) if generator.c_dim else None
    with torch.no_grad():
        w = generator.map(z, labels, truncation_psi=config.psi)
        image = generator.synthesize(w, "const")
    check_numbers("The generated picture", "check the generator, or give another sample.seed", image)
    return Sampled(w, image)


def sampled_crop(sampled: Sampled) -> Crop:
    """A generated picture as a crop of itself: points and masks are then given in its own pixels."""
    size = sampled.image.shape[-1]
    pixels = image_u8(sampled.image)
    alignment = align_precropped(pixels.shape[:2], size)
    return Crop(sampled.image.cpu().numpy(), np.ones((1, 1, size, size), np.float32), alignment)


def make_drag(
    config: EditConfig,
    crop: Crop,
    pairs: Sequence[int],
    console: Console | None = None,
    painted: np.ndarray | None = None,
) -> Drag:
    """What one face is asked to do, in photo pixels: the pairs with those numbers, or the preset on its landmarks, or
    the pose of `edit.like`.

    The mask is the user's, a file or `painted` [H, W] float32 in [0, 1], times the preset's; of pairs without one, that
    of `edit.auto_mask`. A direction moves no points. The console is told the pose. Raises NoFaceError when no landmarks
    are found here or in the other photo.
    """
    shape = crop.alignment.photo_shape
    mask = painted if config.mask is None else read_mask(config.mask, shape)
    if config.direction is not None:
        return Drag(np.zeros((0, 2)), np.zeros((0, 2)), mask)
    if not config.by_face:
        points = np.array([config.points[number] for number in pairs], dtype=np.float64).reshape(-1, 4)
        handles, targets = points[:, :2], points[:, 2:]
        if mask is None and config.auto_mask:
            unit_px = EYES_APART * crop.alignment.size * crop.alignment.photo_px_per_crop_px
            mask = automatic_mask(handles, targets, unit_px, shape)
        return Drag(handles, targets, mask)
    landmarks = _own_landmarks(crop, config)
    if config.preset is None:
        asked = pose_drag(landmarks, pose_towards(config, landmarks, console), shape)
    else:
        asked = preset_drag(config.preset, landmarks, config.strength, shape)
    if mask is None or asked.mask is None:
        return Drag(asked.handles, asked.targets, asked.mask if mask is None else mask)
    return Drag(asked.handles, asked.targets, np.multiply(asked.mask, mask, out=mask))


def check_direction(generator: Generator, config: EditConfig) -> None:
    """UsageError when the generator lacks the direction of `edit.direction` or its layers; tuning adds none."""
    assert config.direction is not None
    layers = parse_layers(generator, config.direction_layers)
    pick_direction(generator, parse_direction(config.direction), layers, generator.w_avg)


def _own_landmarks(crop: Crop, config: EditConfig) -> np.ndarray:
    """Landmarks [68, 2] in photo pixels for a preset or a pose."""
    asked = {"edit.like": config.like} if config.preset is None else {"edit.preset": config.preset}
    ((key, value),) = asked.items()
    mend = f"give points by hand with '{key}=null' 'edit.points=[[x,y,x2,y2]]'"
    return landmarks_of(crop, f"{key}={value}", mend)


def edit(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    start: Tensor,
    crop: Crop,
    asked: Drag,
    config: EditConfig,
    console: Console,
    title: str,
    face_network: FaceNetwork | None = None,
    speed: str = "auto",
) -> Dragged:
    """The drag on the (tuned) generator, or the way along its direction; `start` [1, 3, R, R] is the picture before.

    A preset or a pose is dragged until its landmarks are seen to arrive, unless `edit.method` says otherwise or no face
    is found in `start`. The face network is needed where `edit.identity_weight` is not 0; `speed` is of feature maps.
    """
    if config.direction is not None:
        direction, layers, every = parse_direction(config.direction), config.direction_layers, config.frame_every
        edited = move_along(generator, w, noise, direction, config.strength, layers, every)
        return Dragged(edited, start, asked.targets, asked.mask, config.frame_every, config.fps)
    handles, targets = crop.alignment.to_crop(asked.handles), crop.alignment.to_crop(asked.targets)
    mask = None if asked.mask is None else mask_on_crop(asked.mask, crop.alignment).to(w)
    by_features = not config.by_face or config.method in ("points", "published")
    locator = None if by_features else _locator(config, start, crop, console)
    with stoppable_steps(console, title, config.stop_after) as told:
        if config.method == "published":
            published = settings_of(PublishedSettings, config)
            edited = drag_published(generator, w, noise, handles, targets, mask, published, *told)
        elif config.method == "landmarks" and locator is not None:
            moves, quick = targets - handles, _landmark_settings(config)
            edited = drag_landmarks(generator, w, noise, locator, moves, mask, quick, *told)
            targets = edited.tracks[0].double().numpy() + moves
        else:
            person = None if face_network is None else _person(start.to(w), face_network)
            settings = settings_of(DragSettings, config, speed=speed)
            if locator is None:
                watch = config.method != "points"
                edited = drag_by_hand(
                    generator, w, noise, start, handles, targets, mask, settings, *told, person, watch
                )
                if "face_kept" in edited.metrics:
                    share = edited.metrics["face_kept"]
                    console.warn(f"{title}: no face is seen beyond {share:.0%} of its way, so it ends there")
            else:
                moves = targets - handles
                edited = drag_until_seen(generator, w, noise, locator, moves, mask, settings, *told, person)
                targets = edited.tracks[0].double().numpy() + moves
    return Dragged(edited, start, targets, asked.mask, config.frame_every, config.fps)


def edit_in_a_row(
    generator: Generator,
    w: Tensor,
    noise: NoiseMaps | None,
    start: Tensor,
    crop: Crop,
    steps: Sequence[EditStep],
    console: Console,
    title: str,
    face_network: FaceNetwork | None = None,
    done: Stored[Dragged] | None = None,
    count: int = 0,
    speed: str = "auto",
) -> Dragged:
    """Several edits, each from where the one before ended, as one: the last one's points, the film of all, and a mask
    that lets change what any of them may change. The first `count` are `done` already."""
    made: list[Dragged] = [] if done is None else [done.value]
    before = [] if done is None else read_video(done.folder / VIDEO)
    for number, step in enumerate(steps[count:], count + 1):
        name = title if len(steps) == 1 else f"{title} {number}/{len(steps)}"
        here = (made[-1].edited.w.to(w), made[-1].edited.image) if made else (w, start)
        drawn = (generator, here[0], noise, here[1])
        made.append(edit(*drawn, crop, step.drag, step.config, console, name, face_network, speed))
        before = thinned([*before, *made[-1].film()]) if number < len(steps) else thinned(before)
    told = tuple(step.told for step in steps)
    return replace(made[-1], start=start, mask=greatest_mask(steps), told=told, before=before)


def _person(start: Tensor, network: FaceNetwork) -> Person:
    """How far pictures are from the person of `start` [1, 3, R, R]: the squared distance of dlib's descriptors."""
    with torch.no_grad():
        wanted = whole_face_descriptor(network, start.clamp(-1, 1))

    def away(image: Tensor) -> Tensor:
        return (whole_face_descriptor(network, image.clamp(-1, 1)) - wanted).square().sum()

    return away


def without_rest(dragged: Dragged, inverted: Inverted, alignment: Alignment) -> Dragged:
    """The drag with what covers the face taken out of where the photo may change.

    The blend adds the difference of two renderings, and they may differ behind a hand, where the photo shows the hand.
    """
    mask = inverted.counting.mask
    if not inverted.rest_stays or mask is None:
        return dragged
    rest = mask_on_photo(mask, alignment)
    return replace(dragged, mask=rest if dragged.mask is None else np.multiply(dragged.mask, rest, out=rest))


def settings_of(kind: type[S], config: EditConfig, **others: Any) -> S:
    """The settings of a way to drag, whose fields have the names of the config's, but for `others`."""
    shared = (field.name for field in fields(kind) if field.name not in others)
    return kind(**{name: getattr(config, name) for name in shared}, **others)


def _landmark_settings(config: EditConfig) -> LandmarkSettings:
    return LandmarkSettings(
        rounds=min(config.steps, LandmarkSettings().rounds),
        hold_weight=config.mask_weight,
        pull_weight=config.pull_weight,
        w_layers=config.w_layers,
        frame_every=config.frame_every,
    )


def _locator(config: EditConfig, start: Tensor, crop: Crop, console: Console) -> LandmarkLocator | None:
    """What finds the landmarks that are dragged in pictures like `start`; None, said aloud, when there is no face."""
    own = _own_landmarks(crop, config)
    landmarks = pose_landmarks(own) if config.preset is None else preset_landmarks(config.preset, own)
    try:
        return LandmarkLocator(image_u8(start), landmarks)
    except NoFaceError:
        if config.method == "landmarks":
            raise
        asked = f"edit.like={config.like}" if config.preset is None else f"edit.preset={config.preset}"
        console.warn(f"no face was found in the inverted picture: {asked} is dragged by features")
        return None


def pixels_of(image: Tensor) -> np.ndarray:
    """[1, 3, R, R] as [R, R, 3] float32 on the CPU."""
    return np.ascontiguousarray(image[0].detach().float().cpu().permute(1, 2, 0).numpy())


def mask_hash(path: str | None) -> str | None:
    """SHA-256 of a mask file, None without one."""
    return None if path is None else file_sha256(Path(path))
