"""The drag session as the studio will use it: points moved while it runs, files, replays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.errors import ModelError, OutputError, UsageError
from editing.drag import DragSettings, drag
from editing.session import DragSession
from editing.session_file import KEY, read_record
from tests.test_drag import CENTRES, QUICK, SIZE, Parts, random_w
from tests.tiny import tiny_generator

START = torch.zeros(1, Parts.num_ws, Parts.w_dim)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts()


def half_mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., :34] = 1.0
    return mask


def test_points_and_mask_set_before_are_those_of_the_drag(parts: Parts) -> None:
    session = DragSession(parts, START, settings=QUICK)
    session.set_points([CENTRES[0]], [(24.0, 27.0)])
    session.set_mask(half_mask())
    session.start()
    heard: list[int] = []
    session.run(lambda step: heard.append(step.step))
    wanted = drag(parts, START, None, [CENTRES[0]], [(24.0, 27.0)], half_mask(), QUICK)
    assert torch.equal(session.w, wanted.w)
    assert heard == list(range(1, wanted.steps + 1))
    (edit,) = session.edits
    assert (edit.steps, edit.stop_reason) == (wanted.steps, "arrived")
    assert torch.equal(session.render(), parts.synthesize(session.w))


def test_a_target_moved_while_the_drag_runs_is_where_it_ends(parts: Parts) -> None:
    session = DragSession(parts, START, settings=replace(QUICK, stop_px=0.7))
    session.start([CENTRES[0]], [(27.0, 30.0)])
    session.step()
    session.step()
    under_way = session.w
    session.set_points(parts.centres(under_way)[:1], [(21.0, 35.0)])
    assert session.running
    assert torch.equal(session.w, under_way)
    session.run()
    assert session.stop_reason == "arrived"
    assert float((parts.centres(session.w)[0] - torch.tensor([21.0, 35.0])).norm()) < 0.8
    assert len(session.edits) == 1
    assert session.edits[0].steps > 2
    assert torch.equal(session.undo(), START)


def test_a_mask_set_while_the_drag_runs_counts(parts: Parts) -> None:
    firm = replace(QUICK, mask_weight=20.0)
    session = DragSession(parts, START, settings=firm)
    session.start([CENTRES[0]], [(27.0, 30.0)])
    session.step()
    session.set_mask(half_mask())
    session.run()
    free = DragSession(parts, START, settings=firm)
    free.start([CENTRES[0]], [(27.0, 30.0)])
    free.run()
    changed = [(parts.features(s.w, 32) - parts.features(START, 32))[..., 20:].abs().mean() for s in (session, free)]
    assert float(changed[0]) < 0.9 * float(changed[1])
    assert session.edits[0].mask is not None
    with pytest.raises(UsageError, match="mask has the shape"):
        session.start([CENTRES[0]], [(27.0, 30.0)], torch.ones(1, 1, 8, 8))
    assert len(session.edits) == 1


def test_points_that_do_not_fit_change_nothing(parts: Parts) -> None:
    session = DragSession(parts, START, settings=QUICK)
    with pytest.raises(UsageError, match="No points are set"):
        session.start()
    session.set_points([CENTRES[0]], [(24.0, 27.0)])
    with pytest.raises(UsageError, match="outside the aligned crop"):
        session.set_points([CENTRES[0]], [(99.0, 27.0)])
    session.start()
    assert session.edits[0].targets.tolist() == [[24.0, 27.0]]
    with pytest.raises(UsageError, match="takes w of"):
        DragSession(parts, START[:, :3])


def test_stop_while_running_by_a_callback(parts: Parts) -> None:
    session = DragSession(parts, START, settings=QUICK)
    session.start([CENTRES[0]], [(30.0, 30.0)])
    answers = iter([False, False, True])
    session.run(should_stop=lambda: next(answers))
    assert (session.stop_reason, session.edits[0].steps, session.running) == ("stopped", 2, False)


def test_a_saved_session_goes_on_as_if_it_had_never_been_left(tmp_path: Path) -> None:
    generator = tiny_generator(64)
    w = random_w(generator)
    noise = {name: torch.randn_like(value) for name, value in generator.noise_maps().items()}
    session = DragSession(generator, w, noise, DragSettings(steps=4, frame_every=0))
    mask = torch.ones(1, 1, 64, 64)
    mask[..., 50:] = 0.0
    session.start([[20.0, 30.0]], [[29.0, 33.0]], mask)
    session.run()
    session.start([[40.0, 30.0]], [[35.0, 33.0]])
    session.run()
    last = session.w
    session.undo()
    session.save(tmp_path / "a.session")
    again = DragSession.load(tmp_path / "a.session", generator)
    assert torch.equal(again.w, session.w)
    assert torch.equal(again.render(), session.render())
    assert [edit.stop_reason for edit in again.edits] == ["cap"]
    assert again.edits[0].mask is not None
    assert torch.equal(again.redo(), last)
    assert torch.equal(again.undo(), session.w)
    assert torch.equal(again.undo(), w)
    assert torch.equal(again.replay(session.edits), session.w)


def test_a_running_drag_is_saved_as_far_as_it_has_come(parts: Parts, tmp_path: Path) -> None:
    session = DragSession(parts, START, settings=QUICK)
    session.start([CENTRES[0]], [(30.0, 30.0)])
    session.step()
    session.save(tmp_path / "b.session")
    assert session.running
    record = read_record(tmp_path / "b.session")
    assert record.drags[0]["stop"] == "stopped"
    assert torch.equal(record.tensors["w/1"], session.w)


def test_files_that_are_no_sessions_are_told_in_a_sentence(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no session")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    good = tmp_path / "good"
    session = DragSession(parts, START, settings=QUICK)
    session.start([CENTRES[0]], [CENTRES[0]])
    session.save(good)
    tensors = load_file(good)
    told = {
        "version": 1,
        "at": 1,
        "settings": {},
        "drags": [{"handles": [], "targets": [], "steps": 0, "stop": "arrived"}],
    }
    damaged = {
        "version": told | {"version": 9},
        "at": told | {"at": 5},
        "stop": told | {"drags": [{**told["drags"][0], "stop": "exploded"}]},  # type: ignore[index]
        "missing": {key: value for key, value in told.items() if key != "drags"},
        "json": None,
    }
    for name, value in damaged.items():
        save_file(tensors, tmp_path / name, {KEY: "{" if value is None else json.dumps(value)})
        with pytest.raises(ModelError, match="damaged drag session"):
            DragSession.load(tmp_path / name, parts)
    save_file({"x": torch.zeros(1)}, tmp_path / "tensors", {KEY: json.dumps(told)})
    with pytest.raises(ModelError, match=r"damaged drag session \(KeyError"):
        DragSession.load(tmp_path / "tensors", parts)
    with pytest.raises(ModelError, match="cannot be read as a drag session"):
        DragSession.load(tmp_path / "text", parts)
    with pytest.raises(ModelError, match="is no drag session"):
        DragSession.load(tmp_path / "other", parts)
    with pytest.raises(UsageError, match="takes w of"):
        DragSession.load(good, tiny_generator(64))
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        session.save(tmp_path / "folder" / "c.session")


def test_moves_along_directions_are_edits_like_drags(parts: Parts, tmp_path: Path) -> None:
    session = DragSession(parts, torch.zeros(1, Parts.num_ws, Parts.w_dim), settings=QUICK)
    first = session.move("pca:0", 1.5)
    assert session.stop_reason == "arrived"
    handles = parts.centres(first)[:1]
    session.start(handles, handles + torch.tensor([3.0, -2.0]))
    session.run()
    second = session.move("pca:2", -0.5, "0-3")
    assert torch.equal(session.w[:, 4:], session.edits[1].w[:, 4:])
    session.undo()
    session.undo()
    assert torch.equal(session.w, first)
    session.redo()
    assert torch.equal(session.redo(), second)
    session.save(tmp_path / "some.safetensors")
    again = DragSession.load(tmp_path / "some.safetensors", parts)
    assert torch.equal(again.w, second)
    assert [edit.along for edit in again.edits] == [edit.along for edit in session.edits]
    fresh = DragSession(parts, torch.zeros(1, Parts.num_ws, Parts.w_dim), settings=QUICK)
    assert torch.equal(fresh.replay(again.edits), second)


def test_directions_that_are_none_change_nothing(parts: Parts) -> None:
    session = DragSession(parts, torch.zeros(1, Parts.num_ws, Parts.w_dim), settings=QUICK)
    for direction in ("sefa:0", "pca:99", "up"):
        with pytest.raises(UsageError, match=r"^edit\.direction is "):
            session.move(direction, 1.0)
    assert not session.edits
