"""`photodrag batch` from its words to real worker processes: usage errors, results, dead workers, Ctrl-C, orphans."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data.errors import ModelError
from data.files import file_sha256
from pipeline import cli
from pipeline.arguments import parse_arguments
from pipeline.batch_recipe import WORKER_BYTES, share_out
from pipeline.executors import local
from pipeline.executors.protocol import AGAIN, DONE, FAILED, STOP, BatchJob, ItemOutcome, WorkItem
from pipeline.executors.worker import Worker
from pipeline.locks import run_lock
from pipeline.schema import RunConfig
from tests.batches import Inline, batch, batch_folder, errors, rows, saved, small_photos, summary, tree, use
from tests.runs import PHOTO, POINTS, run_dir, short_config

REPOSITORY = Path(__file__).resolve().parents[1]
UNIX = pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
FEW = [
    *("align=center", "threads=1", "measure.metrics=false", "edit=smile", "edit.method=points", "edit.steps=3"),
    *("invert.steps=4", "invert.start_samples=4", "invert.w_stats_samples=50", "invert.weights.perceptual=0"),
    *("tune.steps=3", "tune.weights.perceptual=0", "invert.checkpoint_every=1"),
]


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The sentence of a command that cannot be used."""
    assert cli.main(["batch", *(str(word) for word in words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("photodrag: ") and err.count("\n") == 1
    return err


def test_words_are_photos_and_what_has_an_equals_sign_is_a_setting(tmp_path: Path) -> None:
    command = parse_arguments(["batch", "a", "*.jpg", "-", "photo=c d", "edit=smile", "shard=1/2", "--debug"])
    assert command.photos == ("a", "*.jpg", "-", "c d")
    assert command.overrides == ("edit=smile", "batch.shard=1/2")
    assert parse_arguments(["batch", "edit=smile", "--", "-x.jpg"]).photos == ("-x.jpg",)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no photos are given: write photodrag batch FOLDER"),
        (["edit=smile"], "no photos are given"),
        (["IN", "-m", "edit=smile,frown"], "-m is given to photodrag batch"),
        (["nothing", "edit=smile"], "nothing does not exist: allowed are folders, photos"),
        (["IN"], "edit.points is empty and edit.preset is null"),
        (["IN", "from=IN", "edit=smile"], "from is"),
        (["IN", "edit=smile", "tune.shared=true"], "tune.shared=true computes several photos together"),
        (["IN", "edit=smile", "invert.batch=4"], "invert.batch=4 computes several photos together"),
        (["IN", "edit=smile", "save=IN/a.jpg"], "a file, and a batch saves many"),
        (["IN", "edit=smile", "shard=3/2"], "batch.shard is 3/2: allowed is i/n"),
        (["IN", "edit=smile", "batch.names=x"], "batch.names is x"),
        (["IN", "edit=smile", "executor=slurm"], "executor is slurm: allowed are local, ray"),
        (["IN", "edit=smile", "executor.workers=-1"], "executor.workers is -1: allowed is a whole number from 0"),
        (["IN", "stages=[align,invert]", "save=to"], "only a run that ends with blend has a photo to save"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert sentence in refused(capsys, *(word.replace("IN", str(tmp_path)) for word in words))


def test_usage_errors_come_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    script = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "words = ['batch', sys.argv[1]]\n"
        "for more in (['edit=smile', 'tune.shared=true'], [], ['edit=smile', 'save=' + sys.argv[1] + '/a.jpg']):\n"
        "    assert main([*words, *more]) == 2\n"
        "assert main(['batch', sys.argv[1] + '/nothing', 'edit=smile']) == 2\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "torchvision", "cv2", "dlib", "lpips", "matplotlib", "ray"}


def test_the_settings_are_shown_and_single_runs_ignore_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["batch", "somewhere", "--cfg", "job", "max_failures=3"]) == 0
    shown = capsys.readouterr().out
    assert "max_failures: 3" in shown and "photo: null" in shown
    assert cli.main(["--cfg", "job", "executor=ray"]) == 0
    assert "name: ray" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "machine", "expected"),
    [
        ((0, 0), (8, 64 << 30, 0), (8, 1)),
        ((0, 0), (8, 2 * WORKER_BYTES, 0), (2, 4)),
        ((0, 4), (8, 64 << 30, 0), (2, 4)),
        ((0, 16), (8, 64 << 30, 0), (1, 16)),
        ((3, 0), (8, 64 << 30, 0), (3, 2)),
        ((1, 0), (8, 64 << 30, 0), (1, 8)),
        ((16, 0), (8, 64 << 30, 0), (16, 1)),
        ((0, 0), (16, 64 << 30, 4), (4, 4)),
        ((0, 0), (16, 64 << 30, 1), (1, 16)),
        ((8, 0), (16, 64 << 30, 4), (8, 2)),
        ((0, 0), (1, 1 << 30, 0), (1, 1)),
        ((0, 0), (4, 0, 0), (4, 1)),
    ],
)
def test_the_machine_is_shared_out(
    asked: tuple[int, int], machine: tuple[int, int, int], expected: tuple[int, int]
) -> None:
    assert share_out(*asked, *machine) == expected


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos and one that is broken."""
    folder = tmp_path_factory.mktemp("given")
    changes = {"a.png": lambda p: p, "sub/b.jpg": lambda p: p[:, ::-1], "sub/c.png": lambda p: p[:, ::-1]}
    small_photos(folder, PHOTO, changes)
    (folder / "sub/torn.jpg").write_bytes((folder / "sub/b.jpg").read_bytes()[:900])
    return folder


def test_real_workers_give_the_bits_of_single_runs_and_nothing_the_second_time(
    tmp_path: Path, generator: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to, few = tmp_path / "to", [*FEW, f"generator.path={generator}"]
    words = [photos, *few, f"save={to}", "executor.workers=2"]
    assert batch(tmp_path / "out", *words) == 1
    assert saved(to) == ["a_edited.png", "sub/b_edited.jpg", "sub/c_edited.png"]
    folder = batch_folder(tmp_path / "out")
    assert [row["status"] for row in rows(folder)] == ["done", "done", "done", "failed"]
    (error,) = errors(folder)
    assert (error["photo"], error["stage"], error["kind"]) == ("sub/torn.jpg", "read", "PhotoError")
    assert "damaged or incomplete" in error["error"]
    assert len(list((folder / "thumbs").iterdir())) == 6
    single = [str(photos / "sub/b.jpg"), *few, "progress=false", f"out={tmp_path}/single", f"save={tmp_path}/alone/"]
    assert cli.main(single) == 0
    assert (tmp_path / "alone/b_edited.jpg").read_bytes() == (to / "sub/b_edited.jpg").read_bytes()
    before = tree(to)
    capsys.readouterr()
    assert batch(tmp_path / "out", *words) == 1
    assert tree(to) == before
    assert capsys.readouterr().out.count("done before") == 3
    assert summary(folder)["computed"] == 1


def job_of(generator: Path, out: Path, **changes: object) -> BatchJob:
    config = short_config(generator, out, photo=None, stages=["align", "invert"])
    few = dataclasses.replace(config.invert, steps=4, checkpoint_every=1)
    config = dataclasses.replace(config, invert=few)
    return BatchJob(dataclasses.asdict(config), "c" * 64, threads=1, workers=1, **changes)  # type: ignore[arg-type]


def item_of(photo: Path, number: int = 1) -> WorkItem:
    found = photo.stat()
    return WorkItem(number, str(photo), photo.name, file_sha256(photo), "c" * 64, found.st_size, found.st_mtime_ns)


def children() -> list[psutil.Process]:
    """The worker processes of this one."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def await_true(
    what: Callable[[], object], unless: Callable[[], object] = lambda: False, seconds: float = 300.0
) -> None:
    """Wait until a condition holds; the time is no more than a way out of a hang."""
    end = time.monotonic() + seconds
    while not what():
        assert not unless() and time.monotonic() < end, "it never came"
        time.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs, rather than waits for its parent to notice its end."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def deadly(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the first `times` workers be killed as soon as they have an item; returns their process ids."""
    killed: list[int] = []
    give = local._Process.give

    def give_and_kill(process: local._Process, item: WorkItem, attempt: int) -> None:
        give(process, item, attempt)
        if len(killed) < times:
            pid = process._process.pid  # its command line is not its own yet, straight after the fork
            assert pid is not None
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(local._Process, "give", give_and_kill)
    return killed


@UNIX
def test_a_worker_that_is_killed_is_replaced_and_its_photo_done(
    tmp_path: Path, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = deadly(monkeypatch, times=1)
    (outcome,) = local.LocalExecutor().run(job_of(generator, tmp_path / "out"), [item_of(PHOTO)])
    assert (len(killed), outcome.status, outcome.attempts) == (1, DONE, 2)
    assert children() == []
    undisturbed = Worker(job_of(generator, tmp_path / "other")).run(item_of(PHOTO))
    assert outcome.rows[0]["psnr_invert_db"] == undisturbed.rows[0]["psnr_invert_db"]


@UNIX
def test_a_photo_that_kills_every_worker_becomes_a_failure_with_advice(
    tmp_path: Path, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = deadly(monkeypatch, times=3)
    job = job_of(generator, tmp_path / "out", retries=2)
    (outcome,) = local.LocalExecutor().run(job, [item_of(PHOTO)])
    assert (len(killed), outcome.status, outcome.kind, outcome.attempts) == (3, FAILED, "WorkerDiedError", 3)
    text = "The worker process died (signal 9) 3 times at this photo, often for lack of memory: give "
    assert str(outcome.error).startswith(text)


def test_what_keeps_every_worker_from_starting_is_raised(tmp_path: Path) -> None:
    job = job_of(tmp_path / "no such file.safetensors", tmp_path / "out")
    with pytest.raises(ModelError, match="no such file"):
        list(local.LocalExecutor().run(job, [item_of(PHOTO)]))
    assert children() == []


def test_no_worker_starts_for_nothing(tmp_path: Path, generator: Path) -> None:
    assert list(local.LocalExecutor().run(job_of(generator, tmp_path), [])) == []
    assert children() == []


@UNIX
def test_ctrl_c_and_the_parent_s_death_leave_no_worker_and_keep_the_checkpoint(
    tmp_path: Path, generator: Path, photos: Path
) -> None:
    """One process group as a terminal makes it: Ctrl-C reaches all of it, kill -9 the parent alone."""
    words = [str(photos), *FEW, f"generator.path={generator}", f"out={tmp_path}/out", "executor.workers=1"]
    long = [*words, "invert.steps=3000", "stages=[align,invert]", "progress=false"]
    command = [sys.executable, "-m", "pipeline", "batch", *long]
    checkpoints = "*/invert/*.partial/state.json"
    for ending, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        child = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        await_true(lambda: list((tmp_path / "out").glob(checkpoints)), unless=child.poll)
        workers = psutil.Process(child.pid).children(recursive=True)
        if ending == signal.SIGINT:
            os.killpg(child.pid, ending)
        else:
            os.kill(child.pid, ending)
        out, err = child.communicate(timeout=120)
        assert child.returncode == code
        await_true(lambda workers=workers: not any(map(alive, workers)))
        assert list((tmp_path / "out").glob(checkpoints))
        assert "Traceback" not in err
        if ending == signal.SIGINT:
            assert "the same command continues where it stopped" in err
            assert "0 of 4 photos done, 0 failed, 4 not reached" in out


def test_a_worker_says_what_is_wrong_and_never_raises(tmp_path: Path, generator: Path, photos: Path) -> None:
    config = dataclasses.asdict(short_config(generator, tmp_path / "out", photo=None))
    worker = Worker(BatchJob(config, "c" * 64, threads=1, workers=1, debug=True))
    torn = worker.run(item_of(photos / "sub/torn.jpg"))
    assert (torn.status, torn.stage, torn.kind) == (FAILED, "read", "PhotoError")
    assert "Traceback" in str(torn.traceback)
    assert [row["status"] for row in torn.rows] == ["failed"]
    blank = tmp_path / "blank.png"
    small_photos(tmp_path, PHOTO, {"blank.png": lambda picture: picture * 0 + 90})
    no_face = worker.run(item_of(blank))
    assert (no_face.status, no_face.stage, no_face.kind) == (FAILED, "align", "NoFaceError")
    assert set(no_face.pictures) == {"before"}
    changed = worker.run(dataclasses.replace(item_of(blank), size=1))
    assert (changed.status, changed.error) == (
        AGAIN,
        "blank.png was being written while it was read: run the same command again when it is whole.",
    )
    gone = worker.run(dataclasses.replace(item_of(blank), photo=str(tmp_path / "gone.png"), name="gone.png"))
    assert gone.status == AGAIN and "gone.png vanished" in str(gone.error)
    with run_lock(tmp_path / "out" / f"astronaut_{file_sha256(PHOTO)[:8]}"):
        busy = worker.run(item_of(PHOTO))
    assert busy.status == AGAIN and "is in use by process" in str(busy.error)


def test_a_photo_that_comes_as_bytes_goes_back_as_files(tmp_path: Path, generator: Path) -> None:
    config = dataclasses.asdict(short_config(generator, tmp_path / "out", photo=None))
    scratch = tmp_path / "scratch"
    worker = Worker(BatchJob(config, "c" * 64, threads=1, workers=1), scratch=scratch)
    item = dataclasses.replace(item_of(PHOTO), photo="/not/here/my photo.png", content=PHOTO.read_bytes())
    outcome = worker.run(item)
    assert (outcome.status, outcome.run, outcome.result) == (DONE, None, "my photo_edited.png")
    assert {"my photo_edited.png", "my photo_edited.png.photodrag.json", "manifest.json"} <= set(outcome.files)
    assert outcome.item.content is None
    assert set(outcome.pictures) == {"before", "after"}
    assert not list(scratch.iterdir()) and not (tmp_path / "out").exists()


def test_a_full_disk_is_told_apart_from_a_photo_s_own_faults(
    tmp_path: Path, generator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.errors import OutputError

    def full(*_: object) -> None:
        raise OutputError("No space is left on the disk.")

    monkeypatch.setattr("pipeline.run.run", full)
    config = dataclasses.asdict(short_config(generator, tmp_path / "out", photo=None))
    outcome = Worker(BatchJob(config, "c" * 64, threads=1, workers=1)).run(item_of(PHOTO))
    assert (outcome.status, outcome.error) == (STOP, "No space is left on the disk.")


def test_settings_of_the_batch_change_no_stage_and_no_recipe(tmp_path: Path, generator: Path, out: Path) -> None:
    from pipeline.batch_config import BatchConfig, ExecutorConfig
    from pipeline.batch_recipe import recipe_hash
    from pipeline.run import run
    from tests.runs import stage_entries

    config: RunConfig = short_config(generator, out)
    other = dataclasses.replace(
        config, executor=ExecutorConfig("ray", 3, 0, "auto", "bytes"), batch=BatchConfig("{sha8}{suffix}", "2/3", 4, 5)
    )
    assert recipe_hash(config) == recipe_hash(other)
    assert recipe_hash(config) != recipe_hash(dataclasses.replace(config, seed=1))
    assert all(reused for _, reused in stage_entries(run(other).run_dir))
    assert config.edit.points == POINTS


def test_the_drags_of_a_run_are_made_on_every_photo(
    tmp_path: Path, generator: Path, photos: Path, finished_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[Worker] = []

    def real(job: BatchJob, item: WorkItem) -> ItemOutcome:
        if not workers:
            workers.append(Worker(job))
        return workers[0].run(item)

    use(monkeypatch, Inline(real))
    few = [word for word in FEW if not word.startswith("edit=")]
    words = [photos / "sub", *few, "edit=drag", f"edit.replay={run_dir(finished_out)}", f"generator.path={generator}"]
    assert batch(tmp_path / "out", *words, f"save={tmp_path}/to") == 1
    assert saved(tmp_path / "to") == ["b_edited.jpg", "c_edited.png"]
    edits = [json.loads(path.read_bytes())["edits"] for path in (tmp_path / "to").glob("*.photodrag.json")]
    assert edits == [json.loads((run_dir(finished_out) / "edits.json").read_bytes())["edits"]] * 2


def test_a_model_that_is_missing_is_told_before_any_worker_starts(
    tmp_path: Path, photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert batch(tmp_path / "out", photos, *FEW, "generator=stylegan2-ffhq-512") == 1
    assert "photodrag models download stylegan2-ffhq-512" in capsys.readouterr().err
