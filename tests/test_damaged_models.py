"""Model files that are not what they were: found by their hash before they are used, and the command that mends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from data import landmarks
from data.errors import ModelError
from data.files import file_sha256
from inversion.perceptual import backbone_path
from pipeline import models
from pipeline.known_hashes import CARD, check_cached
from pipeline.models import PerceptualChoice, embedded_generator, read_generator, read_perceptual
from pipeline.run import run
from pipeline.schema import GeneratorConfig
from pipeline.zoo import zoo
from tests.runs import short_config

CPU = torch.device("cpu")
GENERATOR = next(entry for entry in zoo() if entry.is_generator)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def in_cache(cache: Path, generator: Path) -> Path:
    """A generator under the name of a public one, with its hash recorded as after its download."""
    cache.mkdir()
    path = Path(shutil.copy(generator, cache / GENERATOR.file))
    (cache / "hashes.json").write_text(json.dumps({GENERATOR.name: file_sha256(path)}))
    return path


def test_a_changed_bit_of_a_downloaded_generator_stops_the_run(generator: Path, cache: Path, tmp_path: Path) -> None:
    path, config = in_cache(cache, generator), GeneratorConfig(name=GENERATOR.name)
    if GENERATOR.sha256 is None:
        assert read_generator(config, CPU).sha256 == file_sha256(generator)
    flip_a_bit(path)
    told = rf"is damaged or replaced: it has the sha256 .* run `photodrag models download {GENERATOR.name}`"
    with pytest.raises(ModelError, match=told):
        run(short_config(generator, tmp_path / "out", generator=config))
    assert not (tmp_path / "out").exists()
    own = GeneratorConfig(name="file", path=str(path))  # a file that the user gives is taken as it is
    assert read_generator(own, CPU).sha256 == file_sha256(path)


def test_a_generator_of_unknown_hash_is_taken_as_it_is(generator: Path, cache: Path) -> None:
    entry = next(entry for entry in zoo() if entry.is_generator and entry.sha256 is None)
    cache.mkdir()
    shutil.copy(generator, cache / entry.file)
    assert read_generator(GeneratorConfig(name=entry.name), CPU).sha256 == file_sha256(generator)


def test_a_changed_bit_of_the_embedded_generator_is_found_by_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "embedded"
    folder.mkdir()
    whole = embedded_generator()
    path = Path(shutil.copy(whole, folder))
    shutil.copy(whole.with_name(CARD), folder)
    check_cached(path)
    monkeypatch.setattr(models.resources, "files", lambda _: tmp_path)
    assert read_generator(GeneratorConfig(), CPU).sha256 == file_sha256(whole)
    flip_a_bit(path)
    with pytest.raises(ModelError, match="run `pip install --force-reinstall --no-deps photodrag`"):
        read_generator(GeneratorConfig(), CPU)


def test_a_changed_bit_of_a_trunk_is_found(cache: Path) -> None:
    cache.mkdir()
    path = backbone_path("alex", None, cache)
    torch.save({"features.0.weight": torch.zeros(64)}, path)
    (cache / "hashes.json").write_text(json.dumps({"lpips-alex": file_sha256(path)}))
    choice = PerceptualChoice("lpips_alex", "asked for", cache)
    with pytest.raises(ModelError, match="is not the published trunk"):
        read_perceptual(choice, None, CPU)
    flip_a_bit(path)
    with pytest.raises(ModelError, match="run `photodrag models download lpips-alex`, which fetches it again"):
        read_perceptual(choice, None, CPU)


@pytest.mark.parametrize("name", [landmarks.LANDMARK_MODEL, landmarks.DESCRIPTOR_MODEL])
def test_a_cut_off_model_of_dlib_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with landmarks.model_path(name).open("rb") as stream:
        (tmp_path / name).write_bytes(stream.read(100_000))
    monkeypatch.setattr(landmarks, "model_path", lambda name: tmp_path / name)
    read = landmarks._predictor if name == landmarks.LANDMARK_MODEL else landmarks._descriptor_network
    with pytest.raises(ModelError, match=rf"{name} is damaged .*: run `pip install --force-reinstall face_recog"):
        read.__wrapped__()
