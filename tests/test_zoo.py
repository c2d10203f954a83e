"""The model zoo: its registry, its cache, and the runs that need one of its files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import conf
from data.errors import ModelError, UsageError
from inversion.perceptual import BACKBONE_FILES
from pipeline.models import choose_perceptual, generator_path
from pipeline.run import run
from pipeline.schema import GENERATORS, GeneratorConfig, PerceptualConfig
from pipeline.zoo import ZooEntry, cache_folder, entry_path, is_offline, zoo, zoo_entry
from tests.runs import short_config

ROOT = Path(__file__).resolve().parents[1]
CONF = Path(conf.__file__).parent
FIELDS = [field.name for field in dataclasses.fields(ZooEntry)]

pytestmark = pytest.mark.usefixtures("cache")


def test_the_registry_is_well_formed() -> None:
    text = (CONF / "zoo.yaml").read_text(encoding="utf-8")
    for fields in yaml.safe_load(text):
        assert set(fields) <= set(FIELDS)
    for field in FIELDS:
        assert f"#   {field} " in text
    assert len({entry.name for entry in zoo()}) == len({entry.file for entry in zoo()}) == len(zoo())
    for entry in zoo():
        assert entry.family in ("stylegan2", "stylegan3-t", "stylegan3-r", "lpips")
        assert entry.title and entry.subject and entry.licence
        assert (entry.url is None) != (entry.page is None)
        assert str(entry.url or entry.page).startswith("https://")
        assert entry.sha256 is None or (len(entry.sha256) == 64 and int(entry.sha256, 16))
        assert entry.size_mb is None or 1 < entry.size_mb < 1000
        assert (entry.resolution is None) != entry.is_generator


def test_every_generator_of_the_zoo_is_a_choice_and_every_other_choice_is_none() -> None:
    names = {entry.name for entry in zoo() if entry.is_generator}
    assert set(GENERATORS) == names | {"embedded", "file"}
    for name in names:
        assert GeneratorConfig(name=name).path is None
        text = (CONF / "generator" / f"{name}.yaml").read_text(encoding="utf-8")
        assert f"photodrag models download {name}\n" in text
        assert zoo_entry(name).licence in text


def test_trunks_are_the_files_of_the_perceptual_loss_and_their_names_begin_their_hash() -> None:
    trunks = {entry.name.removeprefix("lpips-"): entry for entry in zoo() if not entry.is_generator}
    assert {name: entry.file for name, entry in trunks.items()} == BACKBONE_FILES
    for entry in trunks.values():
        assert str(entry.sha256).startswith(entry.file.removesuffix(".pth").rpartition("-")[2])


def test_the_cache_is_where_the_environment_or_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "models"
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("PHOTODRAG_CACHE", "~/models")
    assert cache_folder() == Path("/home/someone/models")
    monkeypatch.setenv("PHOTODRAG_CACHE", "")
    assert cache_folder().name == "models"
    assert "photodrag" in cache_folder().parts


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("yes", True), ("", False), ("0", False), ("False", False), ("off", False)]
)
def test_the_offline_switch(value: str, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTODRAG_OFFLINE", value)
    assert is_offline() is offline
    assert is_offline(asked=True)


def test_torch_hubs_cache_serves_where_the_model_cache_has_none(tmp_path: Path, cache: Path) -> None:
    auto = PerceptualConfig()
    assert choose_perceptual(auto).reason.endswith("photodrag models download lpips-vgg brings it")
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    for folder in (hub, cache):
        folder.mkdir(parents=True)
        (folder / BACKBONE_FILES["vgg"]).touch()
        assert choose_perceptual(auto).name == "lpips_vgg"
        assert choose_perceptual(auto).folder == folder


def test_a_run_that_needs_a_missing_model_stops_before_it_writes(generator: Path, tmp_path: Path) -> None:
    config = short_config(generator, tmp_path / "out", generator=GeneratorConfig("stylegan2-ffhq-256"))
    with pytest.raises(ModelError, match=r"stylegan2-ffhq-256\.pkl, which is not there: run `photodrag models downloa"):
        run(config)
    assert not (tmp_path / "out").exists()


def test_a_zoo_name_means_its_file_and_a_path_wins(cache: Path) -> None:
    path = entry_path(zoo_entry("stylegan3-t-ffhq-1024"))
    assert path == cache / "stylegan3-t-ffhq-1024.pkl"
    cache.mkdir()
    path.touch()
    assert generator_path(GeneratorConfig("stylegan3-t-ffhq-1024")) == path
    assert generator_path(GeneratorConfig("stylegan3-t-ffhq-1024", "own.safetensors")) == Path("own.safetensors")
    with pytest.raises(UsageError, match=r"allowed are embedded, file, .*; did you mean stylegan3-t-ffhq-1024\?"):
        GeneratorConfig("stylegan3-t-ffhq")


def test_the_zoo_and_its_downloads_need_neither_torch_nor_numpy() -> None:
    code = "import sys, pipeline.zoo, pipeline.zoo_files, pipeline.model_commands; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "hydra", "omegaconf"} & set(done.stdout.split())
