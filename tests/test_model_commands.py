"""`photodrag models`: what each verb does, prints and returns, against a local server."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.errors import ModelError
from inversion.perceptual import BACKBONE_FILES, load_lpips
from pipeline import cli, downloads, model_commands
from pipeline import zoo as registry
from pipeline.locks import file_lock
from pipeline.models import choose_perceptual
from pipeline.schema import PerceptualConfig
from pipeline.zoo import ZooEntry, zoo, zoo_entry
from tests.file_server import FileServer, file_server

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(300_000)

Main = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(CONTENT) as served:
        yield served


@pytest.fixture
def entry(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> ZooEntry:
    """A small generator with an unknown hash, at the local server; the only entry beside one that has a page."""
    known = ZooEntry("tiny", "Tiny", "stylegan2", "faces", "CC0", None, server.url, size_mb=0.3, resolution=64)
    paged = replace(known, name="paged", url=None, page="https://example.org/paged", resolution=64, width=32)
    use_registry(monkeypatch, known, paged)
    monkeypatch.setattr(downloads, "time", SimpleNamespace(sleep=lambda seconds: None))
    return known


def use_registry(monkeypatch: pytest.MonkeyPatch, *entries: ZooEntry) -> None:
    monkeypatch.setattr(registry, "zoo", lambda: entries)
    monkeypatch.setattr(model_commands, "zoo", lambda: entries)


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str]) -> Main:
    """`photodrag models ...`: (exit code, standard output, standard error)."""

    def main(*words: str) -> tuple[int, str, str]:
        code = cli.main(["models", *words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return main


def recorded(cache: Path) -> dict[str, str]:
    return json.loads((cache / "hashes.json").read_text(encoding="utf-8"))


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_a_first_download_records_its_hash_and_later_ones_must_match(
    entry: ZooEntry, server: FileServer, cache: Path, models: Main
) -> None:
    code, out, err = models("download", "tiny")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"tiny: {server.url}, about 0 MB; licence: CC0",
        f"tiny: its sha256 was not known; {SHA256} is recorded in {cache / 'hashes.json'}, and later downloads must "
        "match it",
        f"tiny: {cache / 'tiny.pkl'}",
    ]
    assert (cache / "tiny.pkl").read_bytes() == CONTENT
    assert recorded(cache) == {"tiny": SHA256}
    assert files(cache) == ["hashes.json", "tiny.pkl"]
    (cache / "tiny.pkl").unlink()
    assert "recorded" not in models("download", "tiny")[1]
    (cache / "tiny.pkl").unlink()
    server.content = OTHER
    code, _, err = models("download", "tiny")
    assert code == 1
    assert f"sent has the sha256 {hashlib.sha256(OTHER).hexdigest()}, recorded in {cache / 'hashes.json'} is" in err
    assert files(cache) == ["hashes.json", "tiny.pkl.rejected-1"]
    assert recorded(cache) == {"tiny": SHA256}


def test_a_published_hash_is_kept_to_and_nothing_is_recorded(
    entry: ZooEntry, cache: Path, models: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_registry(monkeypatch, replace(entry, sha256="0" * 64))
    code, _, err = models("download", "tiny")
    assert code == 1
    assert f"has the sha256 {SHA256}, published is {'0' * 64}: it was put aside as" in err
    assert files(cache) == ["tiny.pkl.rejected-1"]
    use_registry(monkeypatch, replace(entry, sha256=SHA256))
    assert models("download", "tiny")[0] == 0
    assert files(cache) == ["tiny.pkl", "tiny.pkl.rejected-1"]


def test_what_is_here_is_not_fetched_again_unless_it_changed(
    entry: ZooEntry, server: FileServer, cache: Path, models: Main
) -> None:
    models("download", "tiny")
    assert models("download", "tiny", "--offline")[:2] == (0, f"tiny: {cache / 'tiny.pkl'} is here and unchanged\n")
    assert len(server.asked) == 1
    (cache / "tiny.pkl").write_bytes(OTHER)
    code, _, err = models("download", "tiny", "--offline")
    assert code == 1
    assert f"and {SHA256} is known" in err
    assert (cache / "tiny.pkl").read_bytes() == OTHER
    code, out, _ = models("download", "tiny")
    assert code == 0
    assert f"it is now {cache / 'tiny.pkl.rejected-1'}" in out
    assert (cache / "tiny.pkl").read_bytes() == CONTENT
    assert (cache / "tiny.pkl.rejected-1").read_bytes() == OTHER


def test_ctrl_c_keeps_the_part_says_so_and_the_same_command_goes_on(
    entry: ZooEntry, server: FileServer, cache: Path, models: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = downloads._read

    def read_once(response: object, count: int) -> bytes:
        assert not (cache / "tiny.pkl").exists()
        if (cache / "tiny.pkl.part").stat().st_size:
            raise KeyboardInterrupt
        return read(response, 100_000)

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "_read", read_once)
        patch.setattr(downloads, "BLOCK_BYTES", 1000)
        patch.setattr(downloads, "PROGRESS_BYTES", 1)
        server.cuts = [100_000]
        code, _, err = models("download", "tiny")
    assert code == 130
    assert "tiny: 0 MB are kept; photodrag models download tiny goes on\n" in err
    assert err.endswith(
        "photodrag: interrupted: what is finished is kept, and the same command continues where it stopped.\n"
    )
    assert "not here, 0 MB begun" in models("list")[1]
    assert models("download", "tiny")[0] == 0
    assert server.asked[-1][0] is not None
    assert (cache / "tiny.pkl").read_bytes() == CONTENT


def test_offline_and_pages_end_in_a_sentence(
    entry: ZooEntry, server: FileServer, cache: Path, models: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models("download", "tiny", "--offline") == (
        1,
        "",
        "photodrag: tiny is not here and is not fetched, as --offline or PHOTODRAG_OFFLINE is given: leave it away, or "
        f"fetch {server.url} elsewhere and put it at {cache / 'tiny.pkl'}.\n",
    )
    monkeypatch.setenv("PHOTODRAG_OFFLINE", "1")
    assert models("download", "tiny")[0] == 1
    assert models("list")[1].endswith("Nothing is fetched: --offline or PHOTODRAG_OFFLINE is given.\n")
    assert server.asked == []
    code, _, err = models("download", "paged")
    assert (code, err) == (
        1,
        "photodrag: paged cannot be fetched by a program: get the file at https://example.org/paged, put it at "
        f"{cache / 'paged.pkl'}, and give the same command again.\n",
    )
    (cache / "paged.pkl").write_bytes(CONTENT)
    code, out, _ = models("download", "paged")
    assert code == 0
    assert f"{SHA256} is recorded" in out
    assert recorded(cache) == {"paged": SHA256}


def test_one_that_fails_leaves_the_others_alone(entry: ZooEntry, cache: Path, models: Main) -> None:
    code, _, err = models("download", "paged", "tiny", "tiny")
    assert (code, err.count("\n")) == (1, 1)
    assert (cache / "tiny.pkl").is_file()


def test_two_processes_do_not_write_the_same_part(
    entry: ZooEntry, cache: Path, models: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    with file_lock(cache / ".tiny.pkl.lock"):
        code, _, err = models("download", "tiny")
    assert code == 1
    assert err.startswith("photodrag: tiny is being fetched by process ")
    monkeypatch.setattr("pipeline.zoo_files.LOCK_WAIT_S", 0.1)
    with file_lock(cache / ".hashes.json.lock"):
        code, _, err = models("download", "tiny")
    assert code == 1
    assert err.startswith(f"photodrag: {cache / 'hashes.json'} is held by process ")
    assert not (cache / "tiny.pkl").exists()
    assert models("download", "tiny")[0] == 0


def test_a_damaged_record_is_not_taken_for_an_empty_one(entry: ZooEntry, cache: Path, models: Main) -> None:
    cache.mkdir()
    (cache / "hashes.json").write_text("{")
    code, _, err = models("download", "tiny")
    assert code == 1
    assert err.startswith(f"photodrag: {cache / 'hashes.json'}, the record of hashes, cannot be read (")
    assert not (cache / "tiny.pkl").exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(entry: ZooEntry, cache: Path, models: Main) -> None:
    cache.write_text("a file")
    code, _, err = models("download", "tiny")
    assert code == 1
    assert err.startswith(f"photodrag: {cache} cannot be written (")
    assert "PHOTODRAG_CACHE=FOLDER" in err


def test_list_shows_every_entry_and_whether_it_is_here(entry: ZooEntry, cache: Path, models: Main) -> None:
    models("download", "tiny")
    code, out, _ = models("list")
    assert code == 0
    assert out.splitlines() == [
        "name   pixels  subject  size  licence",
        "tiny   64x64   faces    0 MB  CC0      here",
        "paged  32x64   faces    0 MB  CC0      not here",
        "",
        f"1 of 2 are here, in {cache}.",
        "photodrag models download NAME fetches one; generator=NAME uses a generator.",
    ]


def test_the_real_list_names_each_entry_once(models: Main) -> None:
    lines = models("list")[1].splitlines()[1:]
    assert [line.split()[0] for line in lines[: len(zoo())]] == [entry.name for entry in zoo()]
    assert all(line.endswith("  not here") for line in lines[: len(zoo())])


def test_verify_hashes_again(entry: ZooEntry, cache: Path, models: Main) -> None:
    assert models("verify") == (0, f"no model is in {cache}\n", "")
    code, out, _ = models("verify", "tiny")
    assert (code, out) == (1, "not here  tiny: photodrag models download tiny fetches it\n")
    models("download", "tiny")
    assert models("verify")[:2] == (0, f"ok        tiny: sha256 {SHA256}\n")
    assert models("verify", "tiny", "paged")[0] == 1
    (cache / "paged.pkl").write_bytes(OTHER)
    code, out, _ = models("verify")
    assert code == 1
    assert out.splitlines()[1].startswith("unknown   paged: sha256 ")
    (cache / "tiny.pkl").write_bytes(OTHER)
    code, out, _ = models("verify", "tiny")
    assert code == 1
    assert out.startswith(f"changed   tiny: sha256 {hashlib.sha256(OTHER).hexdigest()} instead of {SHA256}; photodrag")


def test_path_prints_where_the_file_lies(entry: ZooEntry, cache: Path, models: Main) -> None:
    assert models("path", "tiny") == (
        1,
        "",
        f"photodrag: tiny needs {cache / 'tiny.pkl'}, which is not there: run `photodrag models download tiny`.\n",
    )
    models("download", "tiny")
    assert models("path", "tiny") == (0, f"{cache / 'tiny.pkl'}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "photodrag models is followed by nothing: allowed are list, download,"),
        (["lst"], "photodrag models is followed by lst: allowed are list, download, verify, path"),
        (["list", "all"], "photodrag models list is followed by all: allowed is nothing."),
        (["download"], "photodrag models download is followed by nothing: allowed are names that photodrag models"),
        (["download", "tiny", "stylegan"], "stylegan is not in the model zoo: allowed is what photodrag models list"),
        (["verify", "tinny"], "tinny is not in the model zoo: allowed is what photodrag models list shows; did you"),
        (["path"], "photodrag models path is followed by 0 names: allowed is one."),
        (["download", "tiny", "--ofline"], "--ofline is not an option: allowed are -m, --help,"),
    ],
)
def test_words_that_cannot_be_meant_end_in_one_sentence(
    words: list[str], sentence: str, entry: ZooEntry, server: FileServer, models: Main
) -> None:
    code, out, err = models(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"photodrag: {sentence}")
    assert server.asked == []


def test_offline_is_for_models_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--offline"]) == 2
    assert capsys.readouterr().err == (
        "photodrag: --offline is given to photodrag demo, which fetches nothing: allowed is it with models.\n"
    )


@pytest.fixture
def trunk(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ZooEntry:
    """A random SqueezeNet in the published file's layout, at the local server."""
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(3)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "whole.pth")
    server.content = (tmp_path / "whole.pth").read_bytes()
    entry = replace(
        zoo_entry("lpips-squeeze"),
        url=server.url.replace("file.pkl", BACKBONE_FILES["squeeze"]),
        sha256=hashlib.sha256(server.content).hexdigest(),
    )
    use_registry(monkeypatch, entry)
    return entry


def test_of_a_trunk_only_the_convolutions_are_kept_and_a_run_finds_them(
    trunk: ZooEntry, tmp_path: Path, cache: Path, models: Main
) -> None:
    asked = PerceptualConfig("lpips_squeeze")
    with pytest.raises(ModelError, match=r"run `photodrag models download lpips-squeeze` .* or use perceptual=face"):
        choose_perceptual(asked)
    assert models("download", "lpips-squeeze")[0] == 0
    path = cache / BACKBONE_FILES["squeeze"]
    whole = torch.load(tmp_path / "whole.pth", weights_only=True)
    kept = torch.load(path, weights_only=True)
    assert set(kept) == {name for name in whole if name.startswith("features.")} < set(whole)
    assert all(torch.equal(kept[name], whole[name]) for name in kept)
    assert files(cache) == ["hashes.json", path.name]
    assert models("verify")[0] == 0
    choice = choose_perceptual(asked)
    assert (choice.name, choice.reason) == ("lpips_squeeze", f"asked for, backbone {path}")
    assert load_lpips("squeeze", choice.folder).name == "lpips_squeeze"
    assert models("download", "lpips-squeeze")[1].endswith("is here and unchanged\n")


def test_a_trunk_that_is_no_trunk_never_gets_its_name(
    trunk: ZooEntry, server: FileServer, cache: Path, models: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = CONTENT
    use_registry(monkeypatch, replace(trunk, sha256=SHA256))
    code, _, err = models("download", "lpips-squeeze")
    assert code == 1
    assert "is not a state dict of torchvision" in err
    assert not (cache / BACKBONE_FILES["squeeze"]).exists()
