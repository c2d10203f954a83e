"""The plan of a million photos: the simulated cluster, the bookkeeping at size, and what a part of a batch reads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.bookkeeping import measure_bookkeeping
from benchmarks.cluster_model import Cluster, Work, expected_loss, simulate, young_interval_s
from pipeline.batch_report import MOST_LINKS, NEAR_LINKS, _navigation
from pipeline.cli import main
from pipeline.executors.worker import Worker
from pipeline.ledger import SHARDS, Entry, HashCache, Ledger
from tests.batches import Inline, short_batch, small_photos, use
from tests.runs import PHOTO


def test_without_failures_every_worker_is_busy_to_the_end() -> None:
    course = simulate(Cluster(3, 4, start_s=10.0), Work(240, [30.0]), seed=0)
    assert (course.done, course.failed, course.begun_again) == (240, 0, 0)
    assert course.makespan_s == pytest.approx(10 + 240 * 30 / 12)
    assert course.useful_s == 240 * 30
    assert course.share(course.useful_s + course.starting_s, 12) == pytest.approx(1.0)


def test_slow_machines_hold_up_whole_shards_but_not_a_queue() -> None:
    cluster, work = Cluster(100, 1, slow_share=0.05, slow_factor=3.0), Work(20_000, [30.0])
    queue, dealt = simulate(cluster, work, seed=0), simulate(cluster, work, seed=0, shards=100)
    assert dealt.makespan_s == pytest.approx(200 * 30 * 3)
    assert queue.makespan_s < 200 * 30 * 1.06
    assert (queue.done, dealt.done) == (20_000, 20_000)


def test_what_failures_cost_is_what_the_formula_says() -> None:
    cost_s, mtbf_s, interval_s = 0.5, 2000.0, 30.0
    cluster = Cluster(40, 1, mtbf_s=mtbf_s, return_s=100.0)
    course = simulate(cluster, Work(20_000, [300.0], interval_s, cost_s, retries=10_000), seed=1)
    assert course.done == 20_000
    idle = 1 - course.share(course.useful_s, 40)
    assert idle == pytest.approx(expected_loss(interval_s, cost_s, mtbf_s, 100.0), rel=0.1)
    best = young_interval_s(cost_s, mtbf_s)
    losses = {factor: expected_loss(best * factor, cost_s, mtbf_s, 100.0) for factor in (0.5, 0.9, 1.0, 1.1, 2.0)}
    assert min(losses, key=losses.__getitem__) == 1.0


def test_checkpoints_save_what_a_lost_machine_had_done() -> None:
    cluster = Cluster(20, 1, mtbf_s=1000.0, return_s=10.0)
    with_them = simulate(cluster, Work(2000, [300.0], checkpoint_s=10.0, retries=1000), seed=2)
    without = simulate(cluster, Work(2000, [300.0], retries=1000), seed=2)
    assert with_them.done == without.done == 2000
    assert with_them.lost_s < without.lost_s / 10
    assert with_them.makespan_s < without.makespan_s


def test_photos_that_kill_their_worker_fail_and_no_others() -> None:
    work = Work(5000, [1.0], poison=0.01, retries=2)
    course = simulate(Cluster(2, 2, start_s=1.0), work, seed=3)
    assert course.done + course.failed == 5000
    assert course.begun_again == 2 * course.failed
    assert 20 < course.failed < 90
    assert course.lost_s == pytest.approx(3 * course.failed)


def test_a_cluster_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a worker"):
        simulate(Cluster(0, 1), Work(1, [1.0]), seed=0)
    assert young_interval_s(1.0, math.inf) == math.inf


def test_the_bookkeeping_of_many_photos_is_measured() -> None:
    found = measure_bookkeeping(300, {"photo": "", "sha256": "", "status": "done", "psnr_tuned_db": 0.0})
    assert found["again"] == 0
    assert found["ledger_bytes"] > 200
    assert all(value > 0 for name, value in found.items() if name.endswith("_us"))


def entry(name: str) -> Entry:
    return Entry(name * 64, "c" * 64, "done", photo=f"{name}.jpg", run="../run")


def test_a_part_reads_what_other_divisions_did_and_not_its_neighbours(tmp_path: Path) -> None:
    for name, part in (("a", "1_of_8"), ("b", "2_of_8"), ("c", "1_of_3"), ("d", "3_of_18")):
        folder = tmp_path / SHARDS / part
        folder.mkdir(parents=True)
        Ledger(folder).add(entry(name))
        photo = tmp_path / f"{name}.jpg"
        photo.write_text(name)
        HashCache(tmp_path, folder).hash(str(photo))
    Ledger(tmp_path).add(entry("e"))

    def seen(own: Path) -> set[str]:
        return {key[0][0] for key in Ledger.open(tmp_path, own).entries}

    def hashed(own: Path) -> set[str]:
        cache = HashCache(tmp_path, own)
        return {photo.stem for photo in tmp_path.glob("*.jpg") if cache.known(str(photo))}

    assert seen(tmp_path / SHARDS / "1_of_8") == {"a", "c", "d", "e"}
    assert hashed(tmp_path / SHARDS / "1_of_8") == {"a", "c", "d"}
    assert seen(tmp_path) == {"a", "b", "c", "d", "e"}
    assert hashed(tmp_path) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("count", [2, MOST_LINKS, 5000])
def test_pages_link_to_their_neighbours_and_far_ahead(count: int) -> None:
    links = [(f"page{number}.html", str(number)) for number in range(1, count + 1)]
    here = (count + 1) // 2
    text = _navigation(links, here)
    assert f"<b>{here}</b>" in text
    assert text.count("<a ") <= max(MOST_LINKS - 1, 2 * NEAR_LINKS + 14)
    for number in {1, count, min(here + NEAR_LINKS, count)} - {here}:
        assert f'href="page{number}.html"' in text
    assert _navigation(links[:1], 1) == ""


def outputs(run: Path) -> set[Path]:
    """The finished outputs in a run folder, as stage/key."""
    return {path.parent.relative_to(run) for path in run.glob("*/*/stage.json")}


def test_results_alone_stay_where_they_are_all_that_is_wanted(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another recipe has in the run folder stays, and a second call computes nothing."""
    use(monkeypatch, Inline(lambda job, item: Worker(job).run(item)))
    photos, out, to = tmp_path / "photos", tmp_path / "out", tmp_path / "to"
    photos.mkdir()
    small_photos(photos, PHOTO, {"one.png": lambda picture: picture})
    other = [*short_batch(photos, generator, out), "invert.steps=5"]
    assert main(other) == 0
    (run,) = out.glob("one_*")
    before = outputs(run)
    call = [*short_batch(photos, generator, out), "batch.keep=results", f"save={to}"]
    assert main(call) == 0
    names = {"manifest.json", "edits.json", "one_edited.png", "one_edited.png.photodrag.json"}
    assert {path.name for path in run.iterdir() if path.is_file()} == {*names, "latent.safetensors"}
    assert outputs(run) == {path for path in before if path.parts[0] != "align"}
    assert (to / "one_edited.png").read_bytes() == (run / "one_edited.png").read_bytes()
    first = (run / "manifest.json").read_bytes()
    assert main(call) == 0
    assert (run / "manifest.json").read_bytes() == first
