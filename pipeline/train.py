"""Train a generator: `python -m pipeline.train faces=FOLDER out=FOLDER`. The same command goes on after a kill."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import cv2
import torch
from torch import Tensor

from data.faces import load_faces
from inversion.generators.checkpoint import load_generator, save_generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.identity import FaceNetwork
from inversion.latents import latent_stats
from inversion.training.anchor import SIDE_PX, coarse, fit_picture_model, turned_to
from inversion.training.guards import log_spectrum
from inversion.training.metrics import descriptors, frechet_distance
from inversion.training.state import ENTRY_BYTES, check_part_size, load_state, save_state
from inversion.training.step import Game, GanSettings, GanState, grow, new_state, train_step
from pipeline.bars import steady_bar
from pipeline.errors import EXIT_DONE, UsageError, exit_code, sentence
from pipeline.memory import keep_freed_memory
from pipeline.models import pick_device, read_face_network
from pipeline.pictures import images_u8, sheet
from pipeline.train_config import PATH_KEYS, TrainConfig, check_trainable, compose_training

HELP = """\
Train a generator on a folder of aligned face pictures; the same command goes on after a kill.

  python -m pipeline.train faces=FOLDER out=FOLDER [key=value ...]

Examples
  python -m pipeline.train faces=faces out=run64 resolution=64
  python -m pipeline.train faces=faces out=run128 resolution=128 grow_from=run64/generator.safetensors

Every setting, with its default and what is allowed: conf/train.yaml. How it works: docs/training.md.

Options
  --help     print this text
  --debug    print a traceback when something fails

Exit codes: 0 done, 1 failed, 2 the command cannot be used as given, 130 interrupted (the state is kept).
"""

COARSE_CONTRAST = 0.3
"""Scale of the untrained coarse colour layers: random ones add up to pictures far more garish than a photograph. The
finer ones start at zero, so that the game begins with the pictures that the warm-up has made."""

GENERATOR_NAME = "generator.safetensors"
GENERATOR_HEADER_BYTES = 8192
"""Room for architecture and recipe in the generator's file."""
SHEET_ROWS, SHEET_COLUMNS = 6, 8
SIGN_SAMPLES = 256
STATS_SAMPLES = 10_000


@dataclass(frozen=True, eq=False, slots=True)
class Course:
    """What a run needs besides its state: uint8 `faces` [M, R, R, 3] and their descriptors `reference` [M, 128]."""

    config: TrainConfig
    out: Path
    device: torch.device
    precision: str
    faces: Tensor
    reference: Tensor
    game: Game


def pick_precision(asked: str, device: torch.device) -> str:
    """fp32 or bf16: `auto` takes bf16 where the device computes in it; UsageError for a GPU that cannot."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        if asked == "bf16" and not torch.cuda.is_bf16_supported():
            raise UsageError("precision is bf16, but this CUDA device lacks it: give precision=auto or precision=fp32")
    else:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        able = any(getattr(torch.cpu, name, bool)() for name in names)
    if asked != "auto":
        return asked
    return "bf16" if able else "fp32"


def gan_settings(config: TrainConfig, precision: str) -> GanSettings:
    """The game that a config describes; a grown generator needs no warm-up."""
    game = config.game
    return GanSettings(
        lr_generator=game.lr_generator,
        lr_discriminator=game.lr_discriminator,
        pixel_weight=game.pixel_weight,
        r1_weight=game.r1_weight,
        r1_every=game.r1_every,
        spread_weight=game.spread_weight,
        spectrum_weight=game.spectrum_weight,
        anchor_weight=game.anchor_weight,
        warmup_images=game.warmup_images if config.grow_from is None else 0,
        lr_warmup=game.lr_warmup,
        mixing_share=game.mixing_share,
        decay_images=(game.decay_from, config.images) if game.decay_from else (0, 0),
        ema_images=game.ema_images,
        noise_limit=game.noise_limit,
        bf16=precision == "bf16",
    )


def build_generator(config: TrainConfig) -> StyleGAN2:
    """A random generator, or one grown from half the resolution."""
    if config.grow_from is not None:
        small = load_generator(Path(config.grow_from))[0]
        if not isinstance(small, StyleGAN2):
            raise UsageError(
                f"grow_from is {config.grow_from}, which is no StyleGAN2: allowed is one that was trained here"
            )
        if 2 * small.resolution != config.resolution:
            raise UsageError(
                f"grow_from is {config.grow_from}, which has {small.resolution} px: "
                f"allowed with resolution={config.resolution} is a generator of {config.resolution // 2} px"
            )
        return grow(small).train().requires_grad_(True)
    generator = StyleGAN2(
        StyleGAN2Config(
            resolution=config.resolution, mapping_lr_multiplier=1.0, conv_clamp=None, **asdict(config.model)
        )
    )
    for resolution in generator.block_resolutions:
        contrast = COARSE_CONTRAST if resolution <= SIDE_PX else 0.0
        generator.synthesis.block(resolution).torgb.weight.data.mul_(contrast)
    return generator


def draw_reals(faces: Tensor, batch: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """A batch [N, 3, R, R] in [-1, 1] from uint8 faces [M, R, R, 3], half of them mirrored; `rng` is on the CPU."""
    picks = torch.randint(len(faces), (batch,), generator=rng).to(faces.device)
    images = faces[picks].permute(0, 3, 1, 2).to(device).float() / 127.5 - 1.0
    mirror = (torch.rand(batch, generator=rng) < 0.5).to(device)
    return torch.where(mirror[:, None, None, None], images.flip(3), images)


def step_rng(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, so that a resumed run draws what the unbroken one would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def measure_faces(faces: Tensor, network: FaceNetwork, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Descriptors [M, 128], coarse pictures [M, 3, 16, 16] and the mean spectrum of uint8 faces [M, R, R, 3], a hundred
    at a time."""
    found, small, power = [], [], []
    for part in faces.split(100):
        images = part.permute(0, 3, 1, 2).to(device).float() / 127.5 - 1.0
        found.append(descriptors(network, images))
        small.append(coarse(images))
        power.append(log_spectrum(images).exp() * (len(images) / len(faces)))
    return torch.cat(found), torch.cat(small), torch.stack(power).sum(dim=0).log()


def plan_course(config: TrainConfig, device: torch.device, precision: str, generator: StyleGAN2) -> Course:
    """Read and measure the photographs; as many components of z are tied to them as there are of both."""
    folder, out = check_trainable(config)
    faces = torch.from_numpy(load_faces(folder, config.resolution, "train"))
    if device.type == "cuda":
        faces = faces.to(device)
    network = read_face_network(device)
    reference, small, spectrum = measure_faces(faces, network, device)
    model = fit_picture_model(small, min(config.game.anchor_components, generator.z_dim))
    if config.grow_from is not None:
        z = torch.randn(SIGN_SAMPLES, generator.z_dim, generator=step_rng(config.seed, -2)).to(device)
        model = turned_to(generator, model, z)
    return Course(
        config,
        out,
        device,
        precision,
        faces,
        reference,
        Game(network, model, spectrum, gan_settings(config, precision)),
    )


@torch.no_grad()
def write_report(state: GanState, course: Course) -> dict[str, float]:
    """A sheet of 6 x 8 averaged samples (psi 0.7 in the upper half, 1 below), and figures of `report_samples`."""
    config, average, half = course.config, state.average, SHEET_ROWS * SHEET_COLUMNS // 2
    z = torch.randn(config.report_samples, average.z_dim, generator=step_rng(config.seed, -1)).to(course.device)
    images = [average.synthesize(average.map(part)) for part in z.split(50)]
    truncated = average.synthesize(average.map(z[:half], truncation_psi=0.7))
    shown = sheet(images_u8(torch.cat([truncated, images[0][:half]])), SHEET_COLUMNS)
    cv2.imwrite(str(course.out / f"samples_{state.images:08d}.png"), shown[..., ::-1])
    found = torch.cat([descriptors(course.game.face_network, part) for part in images])
    return {"frechet": frechet_distance(found, course.reference), "descriptor_std": float(found.std(0).mean())}


def write_log(out: Path, line: Mapping[str, object]) -> None:
    """Append one JSON object to the log of a run."""
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def check_file_size(state: GanState, file_mb: int) -> None:
    """Raise UsageError when a tensor of the state, or the generator's file, does not stay below `file_mb` MB."""
    check_part_size(state, file_mb)
    tensors = state.average.state_dict().values()
    needed = sum(2 * tensor.numel() + ENTRY_BYTES for tensor in tensors) + GENERATOR_HEADER_BYTES
    needed += 4 * state.average.w_dim * (state.average.w_dim + 2)  # the latent statistics, float32
    if file_mb and needed >= file_mb * 10**6:
        raise UsageError(
            f"file_mb is {file_mb}: allowed are 0 and whole numbers from {needed // 10**6 + 1}, because "
            f"{GENERATOR_NAME} takes {needed / 1e6:.1f} MB (model.channel_base and model.channel_max make it smaller)"
        )


def save(state: GanState, course: Course) -> None:
    """Write the averaged generator and the state, each with its recipe; the generator's names no folder in full.

    The state comes last, so that a run that is killed in between still writes the generator that belongs to its end.
    """
    config = asdict(course.config)
    seeds: dict[str, object] = {"seed": course.config.seed, "precision": course.precision}
    names = {key: Path(config[key]).name for key in PATH_KEYS if config[key] is not None}
    extra: dict[str, object] = {"images": state.images, **seeds, "config": config | names}
    stats = latent_stats(state.average, STATS_SAMPLES, step_rng(course.config.seed, -3))
    save_generator(state.average, course.out / GENERATOR_NAME, extra, stats=stats)
    for leftover in course.out.glob(f".{GENERATOR_NAME}.*"):
        leftover.unlink(missing_ok=True)
    save_state(state, course.out, seeds | {"config": config}, course.config.file_mb)


@contextlib.contextmanager
def held_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C waits for the end of a step, so that the saved state is a whole one; a second one stops at once.

    Gives a function that tells whether it was pressed. Where Ctrl-C is ignored or handled by others, it stays so.
    """
    pressed: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(pressed)
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def play(state: GanState, course: Course) -> None:
    """Train until `images` pictures were shown, saving every `save_every_s` seconds, at the end and on Ctrl-C.

    Raises KeyboardInterrupt after the state is saved.
    """
    config, saved = course.config, time.monotonic()
    with (
        steady_bar(total=config.images, initial=state.images, unit="img", desc="train", mininterval=5.0) as bar,
        held_interrupt() as interrupted,
    ):
        while state.images < config.images:
            rng, shown = step_rng(config.seed, state.step), state.images
            reals = draw_reals(course.faces, config.batch, rng, course.device)
            figures = train_step(state, reals, course.game, rng)
            bar.update(state.images - shown)
            if state.images // config.report_every > shown // config.report_every:
                figures |= write_report(state, course) | {"images": state.images}
                bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()})
                write_log(course.out, figures | {"time": time.time()})
            stop = interrupted()
            if stop or time.monotonic() - saved >= config.save_every_s or state.images >= config.images:
                save(state, course)
                saved = time.monotonic()
            if stop:
                raise KeyboardInterrupt


def train(config: TrainConfig) -> GanState:
    """Train, or go on with the run in the out folder, until `images` pictures were shown."""
    _, out = check_trainable(config)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    torch.manual_seed(config.seed)
    state = new_state(build_generator(config), gan_settings(config, precision), device)
    check_file_size(state, config.file_mb)
    load_state(state, out)
    course = plan_course(config, device, precision, state.average)
    out.mkdir(parents=True, exist_ok=True)
    start = {"event": "start", "images": state.images, "config": asdict(config)}
    write_log(out, start | {"torch": torch.__version__, "device": str(device), "precision": precision})
    play(state, course)
    return state


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code; failures print one sentence."""
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    try:
        return _dispatch([word for word in words if word != "--debug"])
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  whatever went wrong, a person reads one sentence
        if debug:
            traceback.print_exc()
        print(f"photodrag: {sentence(error)}", file=sys.stderr)
        return exit_code(error)


def _dispatch(words: Sequence[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return EXIT_DONE
    for word in words:
        if word.startswith("-"):
            raise UsageError(f"{word} is not an option: allowed are --help, --debug and settings as key=value")
    config = compose_training(words)
    train(config)
    print(f"generator: {config.out}/{GENERATOR_NAME}")
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
