"""What the documents promise exists: files, commands, keys, formats, sessions."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "packages").glob("*/README.md"),
    ]
)
COMMANDS = {
    "moe-memprof": "moe_memprof",
    "moe-router": "moe_router",
    "moe-bench": "moe_bench",
    "moe-train": "moe_train",
}
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("http", "#", "mailto:")):
            assert (path.parent / target.split("#")[0]).exists(), f"{path.relative_to(ROOT)}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_commands_and_options_exist(path: Path) -> None:
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", path.read_text(), re.S)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(moe-(?:memprof|router|bench|train) [^`]+)`", path.read_text())
    for line in lines:
        words = line.split("#")[0].split()
        if not words or words[0] not in COMMANDS:
            continue
        command: click.Command = import_module(f"{COMMANDS[words[0]]}.cli").main
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{path.name}: {line}"
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
        for word in rest[: rest.index("--")] if "--" in rest else rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{path.name}: {line}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_configuration_keys_exist(path: Path) -> None:
    from moe_train.config import config_keys

    sections = {key.split(".")[0] for key in config_keys() if "." in key}
    for key in re.findall(rf"\b((?:{'|'.join(sections)})\.[a-z_]+)=", path.read_text()):
        assert key in config_keys(), f"{path.relative_to(ROOT)}: {key}"


def test_every_key_is_in_the_reference() -> None:
    from moe_train.config import config_keys

    text = (ROOT / "docs" / "configuration.md").read_text()
    for key, meaning in config_keys().items():
        assert f"`{key}`" in text, key
        assert meaning.replace("|", "\\|") in text, f"{key}: run `python docs/generate.py`"


def test_every_gpu_is_in_the_table() -> None:
    from moe_memprof.hardware import TABLE

    text = (ROOT / "docs" / "hardware.md").read_text()
    for row in TABLE.values():
        line = f"| {row.name} | {row.memory_gb} | {row.usable_gib:.2f} | {row.usable_by} |"
        assert line in text, f"{row.name}: run `python docs/generate.py`"


def test_every_figure_of_the_checkers_is_that_of_the_benchmark() -> None:
    from moe_bench.commands.selftest import figure

    text = (ROOT / "docs" / "checkers.md").read_text()
    rows = json.loads((ROOT / "benchmarks" / "moe_bench_selftest.json").read_text())["rows"]
    table = [line for line in text.splitlines() if line.count("|") == 9 and not line.startswith(("| checker", "|---"))]
    assert len(table) == len(rows) > 30, "run `python docs/generate.py`"
    for line, row in zip(table, rows, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert cells[:2] == [row["checker"], row["data"]]
        assert cells[2].startswith(row["metric"])
        assert cells[3] == figure(row["value"])
        assert cells[5] == str(row["n"])
        assert ("missed" in cells[6]) == (row["met"] is False)
        assert ("reached" in cells[6]) == (row["met"] is True)
    assert {"answers", "consistency", "all checkers"} <= {row["checker"] for row in rows}


def test_every_family_with_levels_is_on_the_data_card() -> None:
    from moe_bench.tasks import LEVELLED, SUITES

    text = (ROOT / "docs" / "suites.md").read_text()
    for name, family in LEVELLED.items():
        (row,) = [line for line in text.splitlines() if f"| `{name}` |" in line]
        for cell in (family.operation, family.description, family.answer_kind, *family.levels):
            assert cell in row, f"{name}: run `python docs/generate.py`"
    assert all(suite in text for suite in SUITES)


def test_every_schema_is_documented() -> None:
    text = (ROOT / "docs" / "formats.md").read_text()
    found = set()
    for path in (ROOT / "packages").glob("*/src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^moe-\w+/[\w-]+@\d+$", node.value))
    assert len(found) > 10
    for schema in found:
        assert f"`{schema}`" in text, schema


def test_configurations_are_valid() -> None:
    from moe_train.config import load_config

    paths = sorted((ROOT / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        load_config(path)


def test_workflows_name_sessions_that_exist() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    named: set[str] = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text()
        for job in yaml.safe_load(text)["jobs"].values():
            named |= set(job.get("strategy", {}).get("matrix", {}).get("session", []))
        named |= set(re.findall(r"nox (?:-\w+ )*-s \"?(\w+)", text))
    assert {"tests", "lint", "types", "coverage", "integration"} <= named
    assert named <= sessions, named - sessions


def test_numbers_are_those_of_the_benchmarks() -> None:
    found = json.loads((ROOT / "benchmarks" / "quickstart.json").read_text())
    before, after, _ = found["accuracy"]["answers"]
    kept_before, kept_after, _ = found["accuracy"]["retained"]
    shares = [f"{100 * before:.1f} % to {100 * after:.1f} %", f"{100 * kept_before:.0f} % to {100 * kept_after:.0f} %"]
    cost = [f"{found['seconds']['median']:.0f} s", f"{found['peak_bytes'] / 2**20:.0f} MiB"]
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        for number in [*shares, *cost]:
            assert number in path.read_text(), f"{path.name}: {number}"
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for stage, seconds in found["seconds_by_stage"].items():
        assert f"| {stage} | {seconds['median']:.1f} |" in text
    started = json.loads((ROOT / "benchmarks" / "startup.json").read_text())["commands"]
    for command, numbers in started.items():
        assert f"| {command} | {numbers['over_empty']['median']:.1f} |" in text
    assert found["identical_results"]
    cold = json.loads((ROOT / "benchmarks" / "cold_estimate.json").read_text())["processes"]["estimate"]
    assert f"takes {cold['seconds']['median']:.2f} s" in text
    assert f"{cold['resident_bytes'] / 1e6:.0f} MB of resident memory" in text
    assert cold["seconds"]["median"] <= 0.5
    assert cold["resident_bytes"] <= 80e6


def test_the_readme_begins_with_the_two_commands() -> None:
    screen = (ROOT / "README.md").read_text()[:1500]
    assert "pip install nox && nox -s quickstart" in screen
    assert re.search(r"pip install nox && nox\b(?! -s)", screen)
