"""Alignment, inversion and tuning: what decides their outputs, and how a run gets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from data.colour import colour_space
from data.errors import ModelError, PhotodragError
from inversion.identity import FaceNetwork
from pipeline import stages
from pipeline.counting import counting_key
from pipeline.engine import Attempt, Engine, Stored
from pipeline.frames import FRAMES
from pipeline.outputs import ALIGN, INVERT, SAMPLE, Aligned, Fitted, Inverted, tune_spec
from pipeline.progress import Console
from pipeline.work import FaceWork, Setup, needed, plain_config

ReadTools = Callable[[], stages.Tools]
"""Reads the networks, when something must be computed and not before."""


def read_tools(setup: Setup, console: Console) -> stages.Tools:
    """What the optimising stages share; a run that inverts or tunes has a perceptual distance."""
    choice = setup.perceptual
    assert choice is not None, "a stage that inverts or tunes runs with a perceptual distance"
    network, config = _face_network(setup, console), setup.config
    perceptual = setup.models.perceptual(choice, network, setup.device)
    return stages.Tools(perceptual, network, console, config.seed, setup.device, config.speed)


def _face_network(setup: Setup, console: Console) -> FaceNetwork | None:
    """The network of the face distance; without its file that measure is left out."""
    try:
        return setup.models.face_network(setup.device)
    except ModelError as error:
        console.warn(f"the face distance is not measured: {error}")
        return None


def align_photo(setup: Setup, engine: Engine) -> Stored[Aligned]:
    """The crops of the setup's photo."""
    config, resolution = setup.config.align, setup.generator.module.resolution
    inputs = {"photo": setup.photo_sha256, "resolution": resolution, "config": plain_config(config)}
    if setup.photo is not None and colour_space(setup.photo.icc) is not None:
        inputs["colours"] = "as sRGB"  # crops of earlier runs held the profile's own values
    return engine.obtain(
        ALIGN,
        inputs,
        lambda _: stages.align(needed(setup.photo), config, resolution),
        known_key=setup.known_key("align"),
    )


def sampled_face(setup: Setup, engine: Engine) -> FaceWork:
    """The generated picture as the one face of a run."""
    config = setup.config.sample
    sampled = engine.obtain(
        SAMPLE,
        {"generator": setup.generator.sha256, "config": plain_config(config)},
        lambda _: stages.sample(setup.generator.module, config, setup.device),
        known_key=setup.known_key("sample"),
    )
    return FaceWork(0, stages.sampled_crop(sampled.value), sampled=sampled)


def invert_inputs(setup: Setup, face: FaceWork) -> dict[str, Any]:
    """Everything that decides a face's inversion; a batch of 1 is none."""
    config = setup.config.invert
    without = {"mask", "frame_every"} | ({"batch"} if config.batch == 1 else set())
    return {
        "align": needed(face.aligned).key,
        "face": face.number,
        "generator": setup.generator.sha256,
        "perceptual": setup.perceptual_name(config.weights.perceptual),
        "seed": setup.config.seed,
        "fast": setup.fast,
        "mask": counting_key(config),
        "config": plain_config(config, without),
    }


def invert_face(setup: Setup, engine: Engine, face: FaceWork, tools: ReadTools, title: str) -> Stored[Inverted]:
    """A face's inversion, computed by itself when it is not stored."""
    generator, config = setup.generator, setup.config.invert

    def compute(attempt: Attempt) -> Inverted:
        return stages.invert(generator, face.crop, tools(), config, attempt, title)

    known = setup.known_key("invert", face.number)
    return engine.obtain(INVERT, invert_inputs(setup, face), compute, face=face.number, known_key=known)


def warn_of_frames(setup: Setup, engine: Engine, face: FaceWork) -> None:
    """Say it when frames are wanted of an inversion that was finished without them."""
    every = setup.config.invert.frame_every
    if every and not (needed(face.inverted).folder / FRAMES).is_file():
        engine.console.warn(
            f"invert.frame_every is {every}, but the inversion was computed before without frames: "
            "resume=false computes it again with them"
        )


def tune_inputs(setup: Setup, face: FaceWork, together: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that decides a face's tuning; together: keys of the inversions that share it, in their order."""
    config = setup.config.tune
    inputs = {
        "invert": needed(face.inverted).key,
        "perceptual": setup.perceptual_name(config.weights.perceptual),
        "seed": setup.config.seed,
        "fast": setup.fast,
        "config": plain_config(config, {"shared"}),
    }
    return {**inputs, "together": list(together)} if together else inputs


def tune_face(
    setup: Setup, engine: Engine, face: FaceWork, tools: ReadTools, title: str, together: Sequence[str] = ()
) -> Stored[Fitted]:
    """A face's tuning, computed when it is not stored; one that several faces share is computed before."""
    generator, config, inverted = setup.generator, setup.config, needed(face.inverted)

    def compute(attempt: Attempt) -> Fitted:
        if together:
            raise PhotodragError(
                "This face is not among those that tune.shared=true tuned together: give the same command again, which "
                "keeps what is finished."
            )
        return stages.tune_around(
            generator.module,
            generator.sha256,
            face.crop,
            inverted.value,
            tools(),
            config.tune,
            config.invert.frame_every,
            attempt,
            title,
        )

    return engine.obtain(
        tune_spec(inverted.value.inversion, generator.module),
        tune_inputs(setup, face, together),
        compute,
        face=face.number,
        known_key=setup.known_key("tune", face.number),
    )
