"""Runs on disk: complete, resumable after kill -9, refused when they are something else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_bench import BenchError, Item, load_items, run_items
from moe_bench.log import append_samples, read_header, read_samples
from scripted import Scripted

ITEMS = [Item(prompt=f"What is {n} + 1?", target=str(n + 1), task="odd" if n % 2 else "even") for n in range(20)]
SCRIPT = {item.prompt: item.target if i % 4 else "0" for i, item in enumerate(ITEMS)}


def test_a_run_scores_every_item_once(tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    summary = run_items(
        Scripted(SCRIPT), ITEMS, tmp_path / "run", suite="s", model_name="m", progress=lambda d, t: seen.append((d, t))
    )
    assert (summary.items, summary.correct, summary.accuracy) == (20, 15, 0.75)
    assert seen[0] == (0, 20)
    assert seen[-1] == (20, 20)
    samples = read_samples(tmp_path / "run")
    assert [s["id"] for s in samples] == [i.id for i in ITEMS]
    assert {s["strategy"] for s in samples} == {"stated"}
    header = read_header(tmp_path / "run")
    assert header["items"]["count"] == 20
    assert header["versions"]["moe-bench"]


def test_a_finished_run_is_not_answered_again(tmp_path) -> None:
    run_items(Scripted(SCRIPT), ITEMS, tmp_path, suite="s", model_name="m")
    before = (tmp_path / "samples.jsonl").read_bytes()
    summary = run_items(Scripted({}), ITEMS, tmp_path, suite="s", model_name="m")
    assert summary.answered_before == 20
    assert (tmp_path / "samples.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", ["items", "model", "settings", "suite"])
def test_another_run_in_the_same_folder_is_refused(tmp_path, change: str) -> None:
    run_items(Scripted(SCRIPT), ITEMS, tmp_path, suite="s", model_name="m")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    model = Scripted(SCRIPT, limit=65 if change == "settings" else 64)
    items = ITEMS[:-1] if change == "items" else ITEMS
    names = {"suite": "t" if change == "suite" else "s", "model_name": "n" if change == "model" else "m"}
    with pytest.raises(BenchError, match=f"begun with another {change}"):
        run_items(model, items, tmp_path, **names)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_torn_line_is_dropped_and_answered_again(tmp_path) -> None:
    run_items(Scripted(SCRIPT), ITEMS, tmp_path, suite="s", model_name="m")
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    for cut in (1, 10, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        assert run_items(Scripted(SCRIPT), ITEMS, tmp_path, suite="s", model_name="m").answered_before == 19
        assert len(path.read_bytes().splitlines()) == 20


def test_damage_in_the_middle_and_foreign_folders_are_refused(tmp_path) -> None:
    run_items(Scripted(SCRIPT), ITEMS, tmp_path / "a", suite="s", model_name="m")
    lines = (tmp_path / "a" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a" / "samples.jsonl").write_text("".join([*lines[:3], "{broken\n", *lines[3:]]))
    with pytest.raises(BenchError, match=r"samples.jsonl:4: damaged"):
        read_samples(tmp_path / "a")
    with pytest.raises(BenchError, match="not a run of moe-bench"):
        read_header(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "samples.jsonl").write_text("")
    with pytest.raises(BenchError, match=r"no run\.json"):
        run_items(Scripted(SCRIPT), ITEMS, tmp_path / "b", suite="s", model_name="m")
    (tmp_path / "a" / "run.json").write_text('{"schema": "moe-bench/run@3"}')
    with pytest.raises(BenchError, match="run@3"):
        read_header(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(BenchError, match="damaged"):
        read_header(tmp_path / "a")


def test_items_must_be_distinct_and_some(tmp_path) -> None:
    for items in ([], [ITEMS[0], ITEMS[0]]):
        with pytest.raises(BenchError, match="none twice"):
            run_items(Scripted(SCRIPT), items, tmp_path / "run", suite="s", model_name="m")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_kill_9_loses_and_doubles_nothing(tmp_path) -> None:
    """Killed again and again at odd moments, the run ends with every item exactly once."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_runner import ITEMS, SCRIPT, Scripted, run_items\n"
        "run_items(Scripted(SCRIPT, batch_size=1, delay=0.02), ITEMS, Path(sys.argv[1]), suite='s', model_name='m')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run"), str(Path(__file__).parent)]
    kills = 0
    for attempt in range(60):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        path = tmp_path / "run" / "samples.jsonl"
        before = path.stat().st_size if path.exists() else 0
        # Wait until this attempt has written something, then a moment more, different every time.
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not (path.exists() and path.stat().st_size > before)
        ):
            time.sleep(0.002)
        time.sleep(0.003 * (attempt % 7))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    assert kills >= 3
    assert process.returncode == 0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert sorted(s["id"] for s in samples) == sorted(i.id for i in ITEMS)
    assert sum(s["correct"] for s in samples) == 15


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path) -> None:
    run_items(Scripted(SCRIPT), ITEMS[:3], tmp_path / "a", suite="s", model_name="m")
    samples = tmp_path / "a" / "samples.jsonl"
    kept = samples.rename(tmp_path / "kept.jsonl")
    samples.symlink_to("/dev/full")
    with pytest.raises(BenchError, match=r"run .*a: cannot be written \(No space left on device\)") as error:
        append_samples(tmp_path / "a", [{"id": "x"}])
    assert isinstance(error.value.__cause__, OSError), "moe-train tells a full disk by it"
    samples.unlink()
    kept.rename(samples)
    assert run_items(Scripted(SCRIPT), ITEMS[:3], tmp_path / "a", suite="s", model_name="m").answered_before == 3
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be written"):
        run_items(Scripted(SCRIPT), ITEMS, tmp_path / "file" / "b", suite="s", model_name="m")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "items.jsonl:2: not JSON"),
        ("[1]", "found a list"),
        ('{"prompt": "x"}', "needs a target"),
        ('{"prompt": " ", "target": "1"}', "needs a prompt"),
        ('{"prompt": "a", "target": 1}', "stand on an earlier line"),
    ],
)
def test_bad_item_files_name_the_line(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f'{{"prompt": "a", "target": "1", "level": 3}}\n{line}\n')
    with pytest.raises(BenchError, match=message):
        load_items(path)


def test_item_files(tmp_path) -> None:
    path = tmp_path / "mine.jsonl"
    with pytest.raises(BenchError, match="no such file"):
        load_items(path)
    path.write_text("\n")
    with pytest.raises(BenchError, match="holds no item"):
        load_items(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BenchError, match="UTF-8"):
        load_items(path)
    path.write_text('{"prompt": "a", "target": 1, "level": 3}\n\n{"prompt": "b", "target": "2", "task": "t"}\n')
    first, second = load_items(path)
    assert (first.task, first.target, first.metadata) == ("mine", "1", {"level": 3})
    assert second.task == "t"
    assert first.to_dict()["id"] == first.id
    # A byte-order mark, as some editors write it, and a line separator inside a text are no reason to stumble.
    path.write_text(
        '\ufeff{"prompt": "a\u2028b", "target": "1"}\r\n{"prompt": "c", "target": "2"}\r\n', encoding="utf-8"
    )
    assert [item.prompt for item in load_items(path)] == ["a\u2028b", "c"]
