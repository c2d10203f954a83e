"""The command line: what words mean, that any photo's name arrives unchanged, exit codes, sweeps, messages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import NoFaceError, UsageError
from pipeline import __version__, cli
from pipeline.arguments import Command, parse_arguments
from pipeline.quoting import PATH_KEYS, looks_like_override, prepare_override, quote_path
from pipeline.run import RunOutcome
from pipeline.schema import JobInfo, RunConfig, compose, parse_overrides

REPOSITORY = Path(__file__).resolve().parents[1]
ODD_NAMES = [
    "plain.jpg",
    "my photo (1).jpg",
    "a[1],b{2}.png",
    'it\'s "me".jpg',
    "year=2024.jpg",
    "edit=smile",
    "a, b.jpg",
    "#1.jpg",
    "${seed}.jpg",
    "a${b.jpg",
    "\\${seed}.jpg",
    "back\\slash\\",
    "2024_01.jpg",
    "2024_01",
    "1e5",
    "null",
    "true",
    "~",
    "+a",
    "été 日本 😀.jpg",
    " leading and trailing ",
    "new\nline.jpg",
    "tab\t.jpg",
    "%d:@?*|&;<>!.jpg",
    "demo.jpg",
]


@dataclass
class FakeRun:
    """Stands in for pipeline.run: keeps what it was called with, and does what the test says."""

    folder: Path
    calls: list[tuple[RunConfig, JobInfo | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    action: Callable[[RunConfig], None] = lambda config: None

    def __call__(self, config: RunConfig, job: JobInfo | None, *others: object) -> RunOutcome:
        self.calls.append((config, job))
        self.action(config)
        report = self.folder / "report.html"
        return RunOutcome(self.folder, [self.folder / "result.png"], report, self.failures)

    @property
    def config(self) -> RunConfig:
        ((config, _),) = self.calls
        return config


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    fake = FakeRun(folder)
    monkeypatch.setattr("pipeline.run.run", fake)
    return fake


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def photo(here: Path) -> str:
    (here / "me.jpg").touch()
    return "me.jpg"


def stderr_of(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert text.count("\n") == 1
    return text.strip()


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("ab01_-. '\"\\${}[]()=,#:@~+%é日\n\t|"), min_size=1).filter(str.strip))
def test_any_path_arrives_unchanged(path: str) -> None:
    assert compose([f"photo={quote_path(path)}"]).photo == path


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="\0")))
def test_a_quoted_path_survives_the_sweepers_rewriting(path: str) -> None:
    (once,) = parse_overrides([f"photo={quote_path(path)}"])
    rewritten = f"photo={once.get_value_element_as_str()}"
    (twice,) = parse_overrides([rewritten])
    assert not once.is_sweep_override()
    assert twice.value() == once.value()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_the_photo_as_it_stands(name: str, here: Path, run: FakeRun) -> None:
    (here / name).touch()
    assert cli.main([name, "edit=smile"]) == 0
    assert run.config.photo == name
    assert run.config.edit.preset == "smile"


@pytest.mark.parametrize("name", ["a, [b] 'c'.jpg", "\\${seed}=\\", "2024_01"])
def test_an_odd_name_survives_a_sweep(name: str, here: Path, run: FakeRun) -> None:
    (here / name).touch()
    assert cli.main(["-m", "run", name, "edit=smile,slim"]) == 0
    assert [(config.photo, config.edit.preset) for config, _ in run.calls] == [(name, "smile"), (name, "slim")]


def test_words_of_the_mask_can_be_swept_and_a_path_with_a_comma_cannot(here: Path, run: FakeRun) -> None:
    (here / "me.jpg").touch()
    (here / "face,b.png").touch()
    assert cli.main(["-m", "run", "me.jpg", "edit=smile", "invert.mask=face,auto"]) == 0
    assert cli.main(["-m", "run", "me.jpg", "edit=smile,slim", "invert.mask=face,b.png"]) == 0
    assert [config.invert.mask for config, _ in run.calls] == ["face", "auto", "face,b.png", "face,b.png"]


@pytest.mark.parametrize("key", PATH_KEYS)
def test_every_path_setting_takes_an_odd_path(key: str, tmp_path: Path) -> None:
    path = str(tmp_path / "a, [b] ${seed} = 'c'")
    config = compose([prepare_override(f"{key}={path}")])
    owner, _, name = key.rpartition(".")
    holder = getattr(config, owner) if owner else config
    assert getattr(holder, {"from": "from_run"}.get(name, name)) == path


def test_null_clears_a_path_and_a_tilde_behind_an_equals_sign_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert prepare_override("edit.mask=null") == "edit.mask=null"
    assert prepare_override("edit.like=a, b.jpg") == "edit.like='a, b.jpg'"
    assert prepare_override("out=~/runs") == "out='/home/someone/runs'"
    assert prepare_override("out=~x/runs") == "out='~x/runs'"


def test_a_name_that_is_not_unicode_arrives_unchanged(here: Path, run: FakeRun) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (here / name).touch()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    assert cli.main([name, "edit=smile"]) == 0
    assert run.config.photo == name


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("edit=smile", True),
        ("+experiment=quick", True),
        ("++seed=1", True),
        ("~edit", True),
        ("~edit=drag", True),
        ("edit.points=[[1,2,3,4]]", True),
        ("hydra/launcher=joblib", True),
        ("seed=", True),
        ("me.jpg", False),
        ("my photo=1.jpg", False),
        ("folder/a=b.jpg", True),
        ("./a=b.jpg", False),
        ("=b", False),
        ("1=2", False),
    ],
)
def test_what_looks_like_an_override(word: str, expected: bool) -> None:
    assert looks_like_override(word) is expected


def test_the_first_file_is_the_photo_and_later_words_are_overrides(here: Path, run: FakeRun) -> None:
    (here / "edit=smile").touch()
    (here / "me.jpg").touch()
    assert cli.main(["me.jpg", "edit=smile"]) == 0
    assert (run.config.photo, run.config.edit.preset) == ("me.jpg", "smile")


def test_photo_may_be_given_by_name(photo: str, run: FakeRun) -> None:
    assert cli.main(["run", f"photo={photo}", "edit=smile"]) == 0
    assert run.config.photo == photo


def test_behind_two_dashes_comes_a_photo(here: Path, run: FakeRun) -> None:
    (here / "--debug").touch()
    assert cli.main(["edit=smile", "--", "--debug"]) == 0
    assert run.config.photo == "--debug"


def test_demo_is_the_sample_with_a_smile(here: Path, run: FakeRun) -> None:
    assert cli.main(["demo", "seed=3"]) == 0
    assert run.config.photo is not None
    assert Path(run.config.photo) == REPOSITORY / "data" / "samples" / "astronaut.png"
    assert (run.config.edit.preset, run.config.seed) == ("smile", 3)


@pytest.mark.parametrize("override", ["edit=slim", "edit.preset=slim", "edit.points=[[1,2,3,4]]"])
def test_demo_leaves_another_edit_alone(override: str, here: Path, run: FakeRun) -> None:
    assert cli.main(["demo", override]) == 0
    assert run.config.edit.preset != "smile"


def test_from_continues_an_earlier_run(run: FakeRun, here: Path) -> None:
    assert cli.main([f"from={run.folder}", "stages=[edit,blend]", "edit=smile"]) == 0
    assert run.config.from_run == str(run.folder)
    assert run.config.photo is None


def test_experiment_goes_with_and_without_a_plus(photo: str, run: FakeRun) -> None:
    assert cli.main([photo, "experiment=inversion_only"]) == 0
    assert cli.main([photo, "+experiment=inversion_only"]) == 0
    assert run.calls[0] == run.calls[1]
    assert run.calls[0][0].stages == ["align", "invert", "tune"]


def test_the_end_says_where_everything_is(photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([photo, "edit=smile"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"result: {run.folder / 'result.png'}",
        f"report: {run.folder / 'report.html'}",
        f"run:    {run.folder}",
    ]


def test_nothing_but_the_run_writes_here(photo: str, run: FakeRun, here: Path) -> None:
    cli.main([photo, "edit=smile"])
    cli.main([photo, "--cfg", "job"])
    assert [path.name for path in here.iterdir()] == ["me.jpg"]
    cli.main([photo, "-m", "edit=smile", "seed=1,2"])
    assert sorted(path.name for path in here.iterdir()) == ["me.jpg", "photodrag_runs"]
    (experiment,) = (here / "photodrag_runs").iterdir()
    assert experiment.name.startswith("experiment_me_")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no photo is given: write photodrag PHOTO, photodrag demo, or photodrag --help for examples."),
        (["nope.jpg"], "photo is nope.jpg, which does not exist: allowed is the path of a file; settings are written"),
        (["photo=nope.jpg"], "photo is nope.jpg, which does not exist: allowed is the path of a file"),
        (["x" * 5000], f"photo is {'x' * 5000}, which does not exist"),
        (["docter"], "docter is neither a file nor a command; did you mean doctor?"),
        (["me.jpg", "you.jpg"], "photo is you.jpg, which does not exist: allowed are paths of photos and of folders;"),
        (["me.jpg", "photo=you.jpg"], "2 photos are given (me.jpg, you.jpg): give words only, or one photo=PATH."),
        (["me.jpg"], "edit.points is empty and edit.preset is null: give 'edit.points=[[x,y,x2,y2]]' in photo pixels"),
        (
            ["me.jpg", "edit=smile", "invert.mask=autto"],
            "invert.mask is autto, which does not exist: allowed are none, face, hull, auto or the path of a PNG in "
            "photo pixels; did you mean auto?",
        ),
        (["me.jpg", "edit=smile", "edit.mask=m.png"], "edit.mask is m.png, which does not exist: allowed is the path"),
        (["me.jpg", "edit.like=o.jpg"], "edit.like is o.jpg, which does not exist: allowed is the path of a file"),
        (["me.jpg", "invert.stps=3"], "invert.stps is not a setting: did you mean invert.steps?"),
        (["me.jpg", "invert.steps=0"], "invert.steps is 0: allowed is a whole number from 1 to 10000."),
        (["me.jpg", "seed=1,2"], "seed=1,2 gives several values: allowed is one, or -m before it to run them all."),
        (["me.jpg", "edit=smile", "-m", "seed=1,x"], "seed is x: allowed is a whole number from 0 to 4294967295."),
        (["me.jpg", "-m", "edit=smile,smil"], "edit is smil: allowed are"),
        (
            ["me.jpg", "-m", "edit=smile", "edit.strength=1,9"],
            "edit.strength is 9.0: allowed is a number from -3 to 3.",
        ),
        (["from=nowhere", "edit=smile"], "from is nowhere, which is no folder: allowed is the path of an existing"),
        (["stages=[edit]", "edit=smile"], "stages begins with edit but from is null: give from=RUN"),
        (["demo", "me.jpg"], "photodrag demo has its own photo: leave the photo away"),
        (["doctor", "now"], "photodrag doctor is followed by now: allowed is nothing."),
        (["me.jpg", "--verbose"], "--verbose is not an option: allowed are -m, --help, --version, --debug,"),
        (
            ["me.jpg", "--multirum"],
            "--multirum is not an option: allowed are -m, --help, --version, --debug, --multirun",
        ),
        (["me.jpg", "--cfg", "hydra"], "--cfg is hydra: allowed is job."),
        (["me.jpg", "--cfg"], "--cfg is followed by nothing: allowed is job."),
    ],
)
def test_a_command_that_cannot_be_used_ends_in_one_sentence(
    words: list[str], sentence: str, photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stderr_of(words, 2, capsys).startswith(f"photodrag: {sentence}")
    assert run.calls == []


def raising(error: BaseException) -> Callable[[RunConfig], None]:
    def action(config: RunConfig) -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UsageError("the mask is 3 x 3, the photo 4 x 4"), 2, "photodrag: the mask is 3 x 3, the photo 4 x 4."),
        (NoFaceError("no face in me.jpg"), 1, "photodrag: no face in me.jpg."),
        (
            ValueError("odd\nthing"),
            1,
            "photodrag: ValueError: odd thing (unforeseen; --debug shows where it happened).",
        ),
    ],
)
def test_an_error_inside_a_run_is_one_sentence(
    error: Exception, code: int, sentence: str, photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run.action = raising(error)
    assert stderr_of([photo, "edit=smile"], code, capsys) == sentence


def test_an_interruption_says_that_the_same_command_continues(
    photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run.action = raising(KeyboardInterrupt())
    assert cli.main([photo, "edit=smile"]) == 130
    assert capsys.readouterr().err == (
        "\nphotodrag: interrupted: what is finished is kept, and the same command continues where it stopped.\n"
    )


def test_an_interruption_ends_a_whole_sweep(photo: str, run: FakeRun) -> None:
    run.action = raising(KeyboardInterrupt())
    assert cli.main([photo, "-m", "edit=smile", "seed=1,2,3"]) == 130
    assert len(run.calls) == 1


def test_debug_shows_the_traceback(photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.action = raising(ValueError("odd"))
    assert cli.main([photo, "edit=smile", "--debug"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert "in action" in text


def test_a_failed_photo_is_exit_code_1(photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.failures = ["face 2: no landmarks"]
    assert cli.main([photo, "edit=smile"]) == 1
    assert capsys.readouterr().err == "photodrag: face 2: no landmarks\n"


def test_a_sweep_runs_every_combination_with_its_job(photo: str, run: FakeRun) -> None:
    assert cli.main([photo, "-m", "edit=smile,slim", "edit.strength=0.5,1.0", "seed=7"]) == 0
    settings_of = [(config.edit.preset, config.edit.strength, config.seed) for config, _ in run.calls]
    assert settings_of == [("smile", 0.5, 7), ("smile", 1.0, 7), ("slim", 0.5, 7), ("slim", 1.0, 7)]
    jobs = [job for _, job in run.calls if job is not None]
    assert [job.number for job in jobs] == [0, 1, 2, 3]
    assert len({job.sweep for job in jobs}) == 1
    assert jobs[2].overrides[1:] == ("edit=slim", "edit.strength=0.5", "seed=7")


def test_a_sweep_over_a_range_and_lists_of_points(photo: str, run: FakeRun) -> None:
    assert cli.main([photo, "-m", "seed=range(1,3)", "edit.points=[[1,2,3,4]],[[5,6,7,8]]"]) == 0
    assert [(config.seed, config.edit.points[0][0]) for config, _ in run.calls] == [(1, 1), (1, 5), (2, 1), (2, 5)]


def test_a_failed_job_leaves_the_others_running(photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    def action(config: RunConfig) -> None:
        if config.seed == 1:
            raise NoFaceError("no face")

    run.action = action
    assert cli.main([photo, "-m", "edit=smile", "seed=0,1,2"]) == 1
    assert len(run.calls) == 3
    captured = capsys.readouterr()
    assert captured.err == "photodrag: no face.\n"
    assert captured.out.endswith("3 jobs, 1 failed\n")


def test_the_config_is_printed_whole_and_reads_back(
    photo: str, run: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([photo, "edit=smile", "invert.steps=7", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["photo"], shown["edit"]["preset"], shown["invert"]["steps"]) == (photo, "smile", 7)
    assert "hydra" not in shown
    assert run.calls == []


def test_the_config_is_checked_before_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert stderr_of(["--cfg=job", "seed=-1"], 2, capsys).startswith("photodrag: seed is -1: allowed is")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["me.jpg", "--help"]])
def test_help_lists_verbs_and_every_choice(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    for part in ("photodrag demo", "photodrag doctor", "smile", "lpips_squeeze", "+experiment", "130 interrupted"):
        assert part in text
    assert "photodrag models download NAME" in text
    assert "stylegan3-t-ffhq-1024" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"photodrag {__version__}\n"


def test_words_are_taken_apart_without_composing() -> None:
    command = parse_arguments(["run", "missing.jpg", "from=a b", "-m", "--cfg=job", "--debug"])
    assert isinstance(command, Command)
    assert (command.verb, command.multirun, command.show_config) == ("run", True, True)
    assert command.overrides == ("photo='missing.jpg'", "from_run='a b'")


def test_python_dash_m_is_the_command_and_a_closed_pipe_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "pipeline", "--help"]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
