"""The trainer on a handful of synthetic pictures: it runs, resumes to the same bits after a kill, and measures."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import inversion.training.state
import pipeline.train
from data.errors import ModelError, UsageError
from data.landmarks import DESCRIPTOR_MODEL, model_path
from inversion.generators.checkpoint import HEADER_KEY, load_generator
from inversion.identity import FaceNetwork, load_face_network
from inversion.training.anchor import SIDE_PX, PictureModel, anchor_loss, coarse, fit_picture_model, turned_to
from inversion.training.augment import TIGHT_WINDOW, AugmentSettings, augment, draw_augment, tightened
from inversion.training.discriminator import (
    DescriptorHead,
    PixelBranch,
    ProjectedDiscriminator,
    minibatch_stddev,
    r1_penalty,
)
from inversion.training.guards import log_spectrum, spectrum_loss
from inversion.training.metrics import frechet_distance
from inversion.training.state import INDEX_NAME, check_part_size, load_state, save_state
from inversion.training.step import Game, GanSettings, GanState, draw_latents, gan_step, new_state, rate_factor
from pipeline.memory import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, keep_freed_memory
from pipeline.train import build_generator, draw_reals, gan_settings, main, pick_precision, train
from pipeline.train_config import GameConfig, ModelConfig, TrainConfig
from tests.tiny import tiny_generator

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
TINY_MODEL = ModelConfig(z_dim=16, w_dim=16, channel_base=128, channel_max=8)


@pytest.fixture(scope="module")
def network() -> FaceNetwork:
    return load_face_network(model_path(DESCRIPTOR_MODEL))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return face_folder(tmp_path_factory.mktemp("pictures") / "faces")


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back, which a run may set for the whole process."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def face_folder(folder: Path) -> Path:
    """Eight smooth pictures; the manifest puts the last one in the validation split."""
    rng = np.random.default_rng(0)
    (folder / "32").mkdir(parents=True)
    rows = ["file,split"]
    for i in range(8):
        picture = cv2.resize(rng.random((5, 5, 3)), (40, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "32" / f"{i}.png"), (picture.clip(0, 1) * 255).astype(np.uint8))
        rows.append(f"32/{i}.png,{'val' if i == 7 else 'train'}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows))
    return folder


def tiny_config(faces: Path, out: Path, images: int, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        faces=str(faces),
        out=str(out),
        resolution=16,
        images=images,
        batch=4,
        seed=3,
        device="cpu",
        precision="fp32",
        save_every_s=1e9,
        model=TINY_MODEL,
        game=GameConfig(warmup_images=8),
    )
    return dataclasses.replace(config, **changes)


def tiny_words(faces: Path, out: Path, *more: str) -> list[str]:
    """The command line of `tiny_config`."""
    words = [f"faces={faces}", f"out={out}", "resolution=16", "batch=4", "seed=3", "device=cpu", "precision=fp32"]
    words += ["model.z_dim=16", "model.w_dim=16", "model.channel_base=128", "model.channel_max=8"]
    return [*words, "game.warmup_images=8", *more]


def tiny_state(resolution: int = 16, **changes: Any) -> GanState:
    torch.manual_seed(0)
    config = TrainConfig(resolution=resolution, model=dataclasses.replace(TINY_MODEL, **changes))
    return new_state(build_generator(config), GanSettings(), CPU)


def tiny_game(network: FaceNetwork, settings: GanSettings, resolution: int = 16) -> Game:
    pictures = torch.rand(9, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    return Game(network, fit_picture_model(pictures, 16), log_spectrum(pictures), settings)


def saved_tensors(out: Path) -> dict[str, Tensor]:
    parts = json.loads((out / INDEX_NAME).read_text())["parts"]
    return {key: value for name in parts for key, value in load_file(out / name).items()}


def assert_equal_states(a: Path, b: Path) -> None:
    first, second = saved_tensors(a), saved_tensors(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def log_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_run_from_the_command_line_writes_sheet_figures_state_and_generator(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my runs (1)"
    words = tiny_words(faces, out, "images=16", "report_every=12", "report_samples=24", "file_mb=2")
    assert main(words) == 0
    assert capsys.readouterr().out == f"generator: {out}/generator.safetensors\n"
    start, report = log_lines(out)
    assert start["event"] == "start" and start["images"] == 0
    assert start["torch"] == torch.__version__ and start["precision"] == "fp32" and start["device"] == "cpu"
    config = start["config"]
    assert config["seed"] == 3 and config["game"]["warmup_images"] == 8 and config["model"]["z_dim"] == 16
    assert config["faces"] == str(faces)
    assert report["images"] == 12
    assert {"g", "d", "spread", "spectrum", "anchor", "r1", "frechet", "descriptor_std", "time"} < report.keys()
    assert all(np.isfinite(value) for value in report.values())
    assert cv2.imread(str(out / "samples_00000012.png")).shape == (6 * 16, 8 * 16, 3)
    with safe_open(str(out / "generator.safetensors"), framework="pt") as file:
        extra = json.loads(file.metadata()[HEADER_KEY])["extra"]
    assert (extra["images"], extra["seed"], extra["precision"]) == (16, 3, "fp32")
    assert extra["config"] == config | {"faces": "faces", "out": "my runs (1)"}
    assert load_generator(out / "generator.safetensors")[0].resolution == 16
    index = json.loads((out / INDEX_NAME).read_text())
    assert (index["step"], index["images"], index["seed"], index["config"]) == (3, 16, 3, config)
    assert len(index["parts"]) > 2
    assert all((out / name).stat().st_size < 2e6 for name in [*index["parts"], "generator.safetensors"])


def test_training_resumes_to_the_same_bits(faces: Path, tmp_path: Path) -> None:
    whole = train(tiny_config(faces, tmp_path / "whole", 16))
    train(tiny_config(faces, tmp_path / "parts", 12))
    resumed = train(tiny_config(faces, tmp_path / "parts", 16, file_mb=2))
    assert (whole.step, resumed.step, resumed.images) == (3, 3, 16)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    assert_equal_states(tmp_path / "whole", tmp_path / "parts")
    first = build_generator(tiny_config(faces, tmp_path, 1)).state_dict()
    assert any(not torch.equal(v, first[k]) for k, v in whole.generator.state_dict().items() if k in first)
    assert [line["images"] for line in log_lines(tmp_path / "parts") if line.get("event") == "start"] == [0, 12]
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    parts = json.loads((tmp_path / "parts" / INDEX_NAME).read_text())["parts"]
    assert names == {*parts, INDEX_NAME, "log.jsonl", "generator.safetensors"}


@pytest.mark.usefixtures("threads")
def test_a_killed_run_goes_on_to_the_bits_of_an_unbroken_one(faces: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = tiny_words(faces, killed, "images=1000000", "threads=1", "save_every_s=0", "file_mb=2")
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *words], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    ) as process:
        while not (killed / INDEX_NAME).is_file():
            assert process.poll() is None
            time.sleep(0.02)
        delay_s = random.uniform(0, 1)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    images = json.loads((killed / INDEX_NAME).read_text())["images"] + 8
    for out in (killed, whole):
        train(tiny_config(faces, out, images, threads=1))
    assert_equal_states(killed, whole)
    assert not [path.name for path in killed.iterdir() if path.name.startswith(".")], delay_s


def test_ctrl_c_saves_a_whole_step_and_says_how_to_go_on(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    step = pipeline.train.train_step

    def pressed(state: GanState, *arguments: Any) -> dict[str, float]:
        if state.step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(state, *arguments)

    monkeypatch.setattr(pipeline.train, "train_step", pressed)
    try:
        assert main(tiny_words(faces, tmp_path / "out", "images=16")) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert said.endswith("interrupted: what is finished is kept, and the same command continues where it stopped.\n")
    monkeypatch.undo()
    assert json.loads((tmp_path / "out" / INDEX_NAME).read_text())["step"] == 2
    assert main(tiny_words(faces, tmp_path / "out", "images=16")) == 0
    assert main(tiny_words(faces, tmp_path / "whole", "images=16")) == 0
    assert_equal_states(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize("name", ["save_generator", "save_state"])
def test_a_run_that_breaks_off_in_its_last_save_still_ends_with_its_generator(
    name: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("no space left")

    words = tiny_words(faces, tmp_path / "out", "images=8")
    monkeypatch.setattr(pipeline.train, name, broken)
    assert main(words) == 1
    monkeypatch.undo()
    assert main(words) == 0
    state, generator = saved_tensors(tmp_path / "out"), load_generator(tmp_path / "out" / "generator.safetensors")[0]
    for key, value in generator.state_dict().items():
        assert torch.equal(value, state[f"average/{key}"].half().float()), key


def test_a_save_that_breaks_off_anywhere_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tiny_state()
    save_state(state, tmp_path, {}, file_mb=2)
    writes = len(list(tmp_path.iterdir()))
    whole = inversion.training.state.write_atomically
    state.step, state.spread = 7, torch.ones(5)
    for last in range(writes):
        left = iter(range(last))

        def broken(path: Path, blob: bytes, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                path.with_name(f".{path.name}.abc").write_bytes(blob[:100])
                raise OSError("no space left")
            whole(path, blob)

        monkeypatch.setattr(inversion.training.state, "write_atomically", broken)
        with pytest.raises(OSError, match="no space left"):
            save_state(state, tmp_path, {}, file_mb=2)
        found = tiny_state()
        assert load_state(found, tmp_path)
        assert (found.step, len(found.spread)) == (0, 0)
    monkeypatch.undo()
    save_state(state, tmp_path, {"seed": 5}, file_mb=0)
    found = tiny_state()
    assert load_state(found, tmp_path)
    assert (found.step, len(found.spread)) == (7, 5)
    assert {path.name for path in tmp_path.iterdir()} == {INDEX_NAME, "state-00000007-1of1.safetensors"}
    assert json.loads((tmp_path / INDEX_NAME).read_text())["seed"] == 5


def test_a_state_that_does_not_belong_here_is_refused_in_a_sentence(tmp_path: Path) -> None:
    state = tiny_state()
    assert not load_state(state, tmp_path / "new")
    save_state(state, tmp_path, {})
    index, (part,) = tmp_path / INDEX_NAME, tmp_path.glob("state-*")
    with pytest.raises(ModelError, match=r"training state of 16 px, not of 32 px: give another out folder\.$"):
        load_state(tiny_state(32), tmp_path)
    with pytest.raises(
        ModelError,
        match=r"another architecture or version \(generator/mapping\.w_avg is \[16\], not \[8\]\)",
    ):
        load_state(tiny_state(w_dim=8), tmp_path)
    tensors, good = load_file(part), index.read_text()
    save_file({name: value for name, value in tensors.items() if name != "discriminator/pixel.out.bias"}, part)
    with pytest.raises(ModelError, match=r"it has no discriminator/pixel\.out\.bias\): give another out folder\.$"):
        load_state(state, tmp_path)
    save_file(tensors | {"discriminator/more": torch.zeros(1)}, part)
    with pytest.raises(ModelError, match=r"it has discriminator/more\): give another out folder\.$"):
        load_state(state, tmp_path)
    part.write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"holds a damaged training state \(.*\): give another out folder\.$"):
        load_state(state, tmp_path)
    part.unlink()
    with pytest.raises(ModelError, match="holds a damaged training state"):
        load_state(state, tmp_path)
    index.write_text(good.replace('"layout": 2', '"layout": 3'))
    with pytest.raises(ModelError, match=r"another version \(layout 3\): give another out folder\.$"):
        load_state(state, tmp_path)
    index.rename(tmp_path / "state.safetensors")
    with pytest.raises(ModelError, match=r"of an earlier version: give another out folder\.$"):
        load_state(state, tmp_path)


def test_a_tensor_or_generator_larger_than_a_file_is_refused_up_front(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tiny_state(channel_base=4096, channel_max=192)
    with pytest.raises(UsageError, match=r"^file_mb is 1: allowed are 0 and whole numbers from 2, because generator/"):
        check_part_size(wide, 1)
    check_part_size(wide, 2)
    check_part_size(wide, 0)
    words = tiny_words(faces, tmp_path / "out", "file_mb=2", "model.channel_base=4096", "model.channel_max=160")
    assert main(words) == 2
    assert "because generator.safetensors takes 2.4 MB (model.channel_base and" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_growing_starts_from_the_smaller_generator(faces: Path, tmp_path: Path) -> None:
    train(tiny_config(faces, tmp_path / "small", 4))
    small = tmp_path / "small" / "generator.safetensors"
    state = train(tiny_config(faces, tmp_path / "big", 4, resolution=32, grow_from=str(small)))
    assert (state.generator.resolution, state.generator.z_dim, state.images) == (32, 16, 4)
    assert len(state.opt_discriminator.state) > 0, "a grown generator plays at once"
    with pytest.raises(UsageError, match=r"which has 16 px: allowed with resolution=64 is a generator of 32 px$"):
        build_generator(tiny_config(faces, tmp_path, 4, resolution=64, grow_from=str(small)))


def test_the_game_config_has_the_defaults_of_the_settings() -> None:
    assert gan_settings(TrainConfig(), "fp32") == GanSettings()
    changed = TrainConfig(images=90, grow_from="g", game=GameConfig(decay_from=40, r1_weight=2.0))
    assert gan_settings(changed, "bf16") == GanSettings(
        warmup_images=0, decay_images=(40, 90), r1_weight=2.0, bf16=True
    )


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for able, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda able=able: able, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, able=able: able)
        assert pick_precision("auto", CPU) == pick_precision("auto", cuda) == name
        assert pick_precision("fp32", CPU) == pick_precision("fp32", cuda) == "fp32"
        assert pick_precision("bf16", CPU) == "bf16"
    with pytest.raises(UsageError, match="this CUDA device lacks it: give precision=auto or precision=fp32"):
        pick_precision("bf16", cuda)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert pick_precision("auto", CPU) == "fp32"


def test_a_step_in_bf16_gives_about_the_figures_of_fp32(network: FaceNetwork) -> None:
    reals = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = []
    for bf16 in (False, True):
        state, settings = tiny_state(), GanSettings(bf16=bf16, r1_weight=1.0)
        found.append(gan_step(state, reals, tiny_game(network, settings), torch.Generator().manual_seed(2)))
        assert all(bool(parameter.isfinite().all()) for parameter in state.generator.parameters())
        assert all(parameter.dtype == torch.float32 for parameter in state.generator.parameters())
    exact, rounded = found
    assert exact != rounded
    for name, value in exact.items():
        assert rounded[name] == pytest.approx(value, rel=0.05, abs=0.05), name


def test_freed_memory_is_kept_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        asked[option] = value
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory()
    assert asked == {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda option, value: 0))
    assert not keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "faces is null: give faces=FOLDER, a folder of aligned face pictures."),
        (["faces=."], 2, "out is null: give out=FOLDER, where state, samples, log and generator are written."),
        (["faces=nowhere", "out=o"], 2, "faces is nowhere, which is no folder: allowed is a folder of aligned"),
        (["faces=.", "out=o", "grow_from=no.x"], 2, "grow_from is no.x, which does not exist: allowed is a generator"),
        (["faces=.", "out=pyproject.toml"], 2, "out is pyproject.toml, which is no folder: allowed is a folder"),
        (["--fces"], 2, "--fces is not an option: allowed are --help, --debug and settings as key=value."),
        (["faces"], 2, "faces cannot be read: allowed is key=value"),
        (["seed=1,2"], 2, "seed=1,2 gives several values: allowed is one."),
    ],
)
def test_a_wrong_command_ends_in_one_sentence(
    words: list[str], code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(words) == code
    said = capsys.readouterr().err
    assert said.startswith(f"photodrag: {sentence}") and said.count("\n") == 1


def test_other_failures_exit_with_1_and_help_with_0(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"")
    assert main(tiny_words(faces, tmp_path)) == 1
    assert "earlier version: give another out folder." in capsys.readouterr().err
    assert main(tiny_words(faces, tmp_path, "--debug")) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "python -m pipeline.train faces=FOLDER out=FOLDER" in capsys.readouterr().out


def test_only_the_train_split_is_shown(faces: Path) -> None:
    from data.faces import list_faces, load_faces

    assert load_faces(faces, 16, "train").shape == (7, 16, 16, 3)
    assert [p.name for p in list_faces(faces, "val")] == ["7.png"]
    with pytest.raises(UsageError, match="holds no pictures of split 'test'"):
        load_faces(faces, 16, "test")
    batch = draw_reals(torch.from_numpy(load_faces(faces, 16, "train")), 5, torch.Generator(), CPU)
    assert batch.shape == (5, 3, 16, 16)
    assert float(batch.min()) >= -1
    assert float(batch.max()) <= 1


def test_noise_strength_is_bounded(network: FaceNetwork) -> None:
    generator = tiny_generator(16).requires_grad_(True)
    with torch.no_grad():
        generator.synthesis.b8.conv0.noise_strength.fill_(1.0)
    settings = GanSettings(noise_limit=0.03)
    state = new_state(generator, settings, CPU)
    gan_step(state, torch.zeros(4, 3, 16, 16), tiny_game(network, settings), torch.Generator().manual_seed(0))
    strengths = [p for name, p in generator.named_parameters() if name.endswith("noise_strength")]
    assert float(torch.stack(strengths).detach().abs().max()) <= 0.03 + 1e-7
    assert state.step == 1


def test_mixing_changes_fine_layers_only() -> None:
    generator = tiny_generator(64)
    coarse_layers = generator.ws_used_by(SIDE_PX)
    z, ws = draw_latents(generator, 64, 0.5, torch.Generator().manual_seed(0), CPU)
    own = generator.map(z)
    other = own.roll(1, dims=0)
    assert 0 < coarse_layers < generator.num_ws
    assert torch.equal(ws[:, :coarse_layers], own[:, :coarse_layers])
    mixed = (ws != own).any(dim=2)
    assert 0.3 < float(mixed.any(dim=1).float().mean()) < 0.7
    assert torch.equal(ws[mixed], other[mixed])
    assert bool((mixed.int().diff(dim=1) >= 0).all()), "from one layer on, all come from the other"
    assert mixed[:, -1].equal(mixed.any(dim=1))
    _, plain = draw_latents(generator, 8, 0.0, torch.Generator().manual_seed(0), CPU)
    assert bool((plain == plain[:, :1]).all())
    z, ws = draw_latents(tiny_generator(16), 8, 1.0, torch.Generator().manual_seed(0), CPU)
    assert bool((ws[:, :-1] == ws[:, :1]).all()) and not bool((ws[:, -1] == ws[:, 0]).any())


def test_step_sizes_fall_to_a_tenth_along_a_half_cosine() -> None:
    assert [rate_factor(images, (0, 0)) for images in (0, 10**9)] == [1.0, 1.0]
    assert [rate_factor(images, (100, 300)) for images in (0, 100)] == [1.0, 1.0]
    assert rate_factor(200, (100, 300)) == pytest.approx(0.55)
    assert rate_factor(150, (100, 300)) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + 2**-0.5))
    assert [rate_factor(images, (100, 300)) for images in (300, 900)] == pytest.approx([0.1, 0.1])


def test_no_augmentation_is_the_identity_and_draws_differ() -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    still = AugmentSettings(shift=0, zoom=0, rotate_deg=0, brightness=0, contrast=0, saturation=0)
    draw = draw_augment(3, still, torch.Generator().manual_seed(0), CPU)
    assert torch.allclose(augment(images, draw, 16), images, atol=1e-5)
    moving = draw_augment(3, AugmentSettings(), torch.Generator().manual_seed(0), CPU)
    assert not torch.allclose(augment(images, moving, 16), images, atol=1e-2)


def test_a_tight_view_shows_the_window_below_the_centre() -> None:
    still = AugmentSettings(shift=0, zoom=0, rotate_deg=0, brightness=0, contrast=0, saturation=0)
    draw = draw_augment(4, still, torch.Generator().manual_seed(0), CPU)
    tight = tightened(draw, 0.5)
    assert torch.equal(tight.theta[2:], draw.theta[2:]) and torch.equal(tight.contrast, draw.contrast)
    assert torch.equal(tightened(draw, 0.0).theta, draw.theta)
    y, x = torch.meshgrid(*[(torch.arange(64) * 2 + 1) / 64 - 1] * 2, indexing="ij")
    places = torch.stack([x, y, torch.zeros(64, 64)]).repeat(4, 1, 1, 1)
    side, below = TIGHT_WINDOW
    whole, seen = augment(places, draw, 64)[0], augment(places, tight, 64)
    assert torch.allclose(seen[2], whole, atol=1e-5)
    assert float(seen[0, 0].mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(seen[0, 1].mean()) == pytest.approx(below, abs=1e-3)
    assert torch.allclose(seen[0, 0], whole[0] * side, atol=1e-3)
    assert torch.allclose(seen[0, 1], whole[1] * side + below, atol=1e-3)


def test_the_picture_model_takes_the_signs_that_the_generator_knows() -> None:
    model = fit_picture_model(torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)), 6)

    class Painter:
        """Draws the pictures of the model."""

        def map(self, z: Tensor) -> Tensor:
            return z

        def synthesize(self, ws: Tensor, noise_mode: str) -> Tensor:
            return model.pictures(ws)

    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    z = torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    turned = turned_to(Painter(), PictureModel(model.mean, model.basis * signs[:, None]), z)  # type: ignore[arg-type]
    assert torch.equal(turned.basis, model.basis)


def test_a_mesh_is_more_power_than_photographs_have() -> None:
    photos = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    wanted = log_spectrum(photos)
    assert wanted.shape == (3, 16, 9)
    assert float(spectrum_loss(photos, wanted)) == 0.0
    assert float(spectrum_loss(0.5 * photos, wanted)) == 0.0
    mesh = photos.clone()
    mesh[:, :, :, ::4] += 0.5
    fringe = photos.clone()
    fringe[:, 0, :, ::4] += 0.5
    assert float(spectrum_loss(mesh, wanted)) > 0.05
    assert float(spectrum_loss(fringe, wanted)) > 0.05
    meshed = log_spectrum(mesh)
    assert float(meshed[0, 0, 4] - wanted[0, 0, 4]) > 3
    assert torch.allclose(meshed[1], wanted[1], atol=1e-4)


def test_minibatch_stddev_sees_a_collapsed_batch() -> None:
    varied = torch.randn(4, 5, 3, 3)
    assert float(minibatch_stddev(varied)[:, -1].mean()) > 0.3
    assert float(minibatch_stddev(varied[:1].repeat(4, 1, 1, 1))[:, -1].abs().max()) < 1e-3


def test_r1_is_the_squared_gradient() -> None:
    torch.manual_seed(0)
    branch = PixelBranch(16, base_channels=4, max_channels=8).double().eval()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    penalty = float(r1_penalty(branch, image).detach())
    step, total = 1e-6, 0.0

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return torch.stack([logit.mean() for logit in branch(pixels)]).sum()

    with torch.no_grad():
        start = score(image)
        for index in range(image.numel()):
            moved = image.clone()
            moved.view(-1)[index] += step
            total += float((score(moved) - start) / step) ** 2
    assert penalty > 0
    assert total == pytest.approx(penalty, rel=1e-3)


def test_discriminator_scores_every_tap() -> None:
    discriminator = ProjectedDiscriminator(64)
    shapes = [(32, 35), (64, 17), (128, 8), (256, 4)]
    taps, faces = [torch.randn(5, c, s, s) for c, s in shapes], torch.randn(5, 128)
    sides = (8, 8, 8, 4)
    whole = [(5, 1, side, side) for side in sides] + [(5, 1)]
    split = [(2, 1, side, side) for side in sides] + [(3, 1, side, side) for side in sides] + [(3, 1)]
    assert [tuple(x.shape) for x in discriminator.head_logits(taps, faces, 0)] == whole
    assert [tuple(x.shape) for x in discriminator.head_logits(taps, faces, 2)] == split
    pixel = discriminator.pixel(torch.zeros(2, 3, 64, 64))
    assert [tuple(x.shape) for x in pixel] == [(2, 1, 16, 16), (2, 1, 1, 1)]


def test_descriptor_head_sees_a_batch_of_one_person() -> None:
    torch.manual_seed(0)
    head = DescriptorHead().eval()
    people = torch.randn(8, 128) * 0.03
    assert head(people).shape == (8, 1)
    alone, twins = head(people[:4])[0], head(people[:1].repeat(4, 1))[0]
    assert not torch.allclose(alone, twins, atol=1e-4)


def test_frechet_distance() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(4000, 6, generator=rng), torch.randn(4000, 6, generator=rng)
    assert frechet_distance(a, b) < 0.02
    assert frechet_distance(a, b + 2.0) == pytest.approx(24.0, rel=0.05)
    assert frechet_distance(a, 3.0 * b) == pytest.approx(6 * 4.0, rel=0.1)


def test_picture_model_has_the_photographs_moments() -> None:
    rng = torch.Generator().manual_seed(0)
    photographs = torch.rand(40, 3, 32, 32, generator=rng) * torch.linspace(0, 1, 32) - 0.3
    model = fit_picture_model(photographs, 100)
    pictures = model.pictures(torch.randn(4000, 100, generator=rng))
    both = coarse(torch.cat([photographs, photographs.flip(3)]))
    assert pictures.shape == (4000, 3, SIDE_PX, SIDE_PX)
    assert torch.allclose(pictures.mean(0), both.mean(0), atol=0.02)
    assert torch.allclose(pictures.std(0), both.std(0), atol=0.03)
    z = torch.zeros(2, 100)
    assert float(anchor_loss(model.pictures(z), z, model)) == 0.0
    assert float(anchor_loss(model.pictures(z) + 0.5, z, model)) == pytest.approx(0.25, rel=1e-4)
