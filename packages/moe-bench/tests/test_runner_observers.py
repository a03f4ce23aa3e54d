"""Observers as packages install them: found, named when broken, told what goes on, and kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_bench import BenchError, Item, run_items
from moe_bench.cli import main
from moe_bench.log import read_header
from moe_bench.observed import read_observed
from moe_bench.observers import installed, make_watch
from scripted import Answer

ITEMS = [Item(prompt=f"{n}", target=f"{n}", task="t", operation="even" if n % 2 == 0 else "odd") for n in range(6)]

MODULE = """
from contextlib import contextmanager
class Counting:
    protocol = 1
    def __init__(self): self.seen = []
    def start(self): self.seen.append("start")
    def attach(self, model): self.seen.append(f"attach {model}")
    @contextmanager
    def group(self, name):
        self.seen.append(f"+{name}")
        yield
        self.seen.append(f"-{name}")
    phase = group
    def stop(self): self.seen.append("stop")
    def result(self): return {"schema": "x@1", "seen": self.seen, "summary": [f"saw {len(self.seen)}"]}
    @staticmethod
    def plot(result, path): path.write_text("<svg/>")
class Joining(Counting):
    @staticmethod
    def merge(results): return {"seen": sum((r["seen"] for r in results), [])}
    @staticmethod
    def plot(result, path): import a_library_that_is_not_there
class Newer(Counting):
    protocol = 2
class Picky(Counting):
    def attach(self, model): raise ValueError("nothing\\nto observe")
class Odd(Counting):
    def result(self): return {"x": {1, 2}}
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with observers, installed as pip leaves one."""
    site = tmp_path / "site"
    info = site / "some_observers-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "some_observers.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-observers\nVersion: 1.2\n")
    names = ("Counting", "Joining", "Newer", "Picky", "Odd", "Missing")
    points = "".join(f"{name.lower()} = some_observers:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[moe_bench.observers]\n{points}nowhere = no_such_module:X\n")
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("some_observers", None)


class Grouping:
    """Answers group by group, as a local model does for observers."""

    settings = {"decoding": "script"}  # noqa: RUF012
    model = "M"

    def answer(self, requests, watch=None):
        for group in sorted({r.group for r in requests}):
            with watch.group(group), watch.phase("answer"):
                yield [Answer(i, f"#### {r.prompt}", 1, True) for i, r in enumerate(requests) if r.group == group]


def test_what_is_installed_and_what_is_broken(plugins) -> None:
    found = installed()
    assert {"counting", "joining", "picky", "odd"} <= set(found.found)
    assert found.sources["counting"] == "some-observers 1.2"
    assert found.broken["newer"] == "some-observers 1.2: written for protocol 2, this moe-bench has 1"
    assert "AttributeError" in found.broken["missing"]
    assert "no_such_module" in found.broken["nowhere"]
    with pytest.raises(BenchError, match=r"observer newer: cannot be loaded .*protocol 2"):
        make_watch(["newer"])
    with pytest.raises(BenchError, match=r"observer 'coutning' is not installed; installed are .*counting"):
        make_watch(["coutning"])


def test_told_what_goes_on_and_kept(plugins, tmp_path) -> None:
    found = installed()
    watch = make_watch(["counting"], found)
    watch.start()
    out = tmp_path / "run"
    run_items(Grouping(), ITEMS, out, suite="s", model_name="m", watch=watch, plugins=found)
    header, observed = read_header(out), read_observed(out)["counting"]
    assert header["observers"] == {"counting": "some-observers 1.2"}
    assert "newer" in header["broken_plugins"]
    assert observed["result"]["seen"] == [
        "start", "attach M", "+even", "+answer", "-answer", "-even", "+odd", "+answer", "-answer", "-odd", "stop",
    ]  # fmt: skip
    assert (observed["answers"], observed["of"], observed["picture"]) == (6, 6, "counting.svg")
    assert (out / "observed" / "counting.svg").read_text() == "<svg/>"


@pytest.mark.parametrize("name", ["counting", "joining"])
def test_a_run_that_goes_on_has_parts(plugins, tmp_path, name: str) -> None:
    out = tmp_path / "run"

    class Stopping(Grouping):
        def answer(self, requests, watch=None):
            yield next(iter(super().answer(requests, watch)))
            raise BenchError("stopped")

    with pytest.raises(BenchError, match="stopped"):  # this session's part is lost, which the number of answers shows
        run_items(Stopping(), ITEMS, out, suite="s", model_name="m", watch=make_watch([name]))
    run_items(Grouping(), ITEMS, out, suite="s", model_name="m", watch=make_watch([name]))
    assert [read_observed(out)[name][k] for k in ("answers", "of")] == [3, 6]
    lines = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (out / "samples.jsonl").write_bytes(b"".join(lines[:4]))
    run_items(Grouping(), ITEMS, out, suite="s", model_name="m", watch=make_watch([name]))
    observed = read_observed(out)[name]
    assert (observed["answers"], observed["of"]) == (5, 6)
    if name == "joining":
        assert observed["parts"] == 2
        assert observed["result"]["seen"].count("stop") == 2
        assert "a_library_that_is_not_there" in observed["no_picture"]
    else:
        assert observed["result"] is None
        assert len(observed["parts"]) == 2


def test_an_observer_with_nothing_to_observe_stops_before_the_first_answer(plugins, tmp_path) -> None:
    with pytest.raises(BenchError, match="observer picky: nothing to observe"):
        run_items(Grouping(), ITEMS, tmp_path, suite="s", model_name="m", watch=make_watch(["picky"]))
    assert not (tmp_path / "samples.jsonl").exists()
    with pytest.raises(BenchError, match="observer odd: its result is no JSON"):
        run_items(Grouping(), ITEMS, tmp_path, suite="s", model_name="m", watch=make_watch(["odd"]))


def test_the_command_shows_them(plugins, tmp_path) -> None:
    items = "".join(json.dumps({"prompt": i.prompt, "target": i.target}) + "\n" for i in ITEMS)
    (tmp_path / "items.jsonl").write_text(items)
    outputs = "".join(json.dumps({"id": i.id, "output": f"#### {i.target}"}) + "\n" for i in ITEMS)
    (tmp_path / "outputs.jsonl").write_text(outputs)
    result = CliRunner().invoke(
        main,
        ["run", "--outputs", str(tmp_path / "outputs.jsonl"), "--data", str(tmp_path / "items.jsonl"),
         "--observe", "counting", "-o", str(tmp_path / "r")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    # Loading is a phase too, and nothing is attached where answers come from a file.
    assert read_observed(tmp_path / "r")["counting"]["result"]["seen"] == [
        "start",
        "+load",
        "-load",
        "attach None",
        "stop",
    ]
    assert "counting: saw 5" in result.output
    assert "plug-in newer cannot be used" in result.output
