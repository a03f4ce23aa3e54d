"""The house: who may import whom, what each package declares, and how its rooms are kept."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "moe-memprof": "moe_memprof",
    "moe-router": "moe_router",
    "moe-bench": "moe_bench",
    "moe-train": "moe_train",
}
MAY_IMPORT = {
    "moe_memprof": set(),
    "moe_router": set(),
    "moe_bench": set(),
    "moe_train": set(PACKAGES.values()) - {"moe_train"},
}
# Imported only behind a check that they are there, for models that need them.
OPTIONAL = {"moe_train": {"deepspeed"}}


def project(name: str) -> dict[str, Any]:
    values: dict[str, Any] = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())["project"]
    return values


def modules(name: str) -> list[Path]:
    return sorted((ROOT / "packages" / name / "src").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level names a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("name", PACKAGES)
def test_imports_go_one_way(name: str) -> None:
    package = PACKAGES[name]
    for path in modules(name):
        siblings = imported(path) & set(PACKAGES.values()) - {package}
        assert siblings <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {siblings}"


_BY_ANOTHER_NAME = {"nf4_grouped": "grouped-nf4-gemm"}
"""Modules of extras that need not be installed here."""


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_imported_is_declared(name: str) -> None:
    values = project(name)
    extras = [r for key, rs in values.get("optional-dependencies", {}).items() if key != "test" for r in rs]
    declared = {canonical(Requirement(r).name) for r in [*values["dependencies"], *extras]}
    distributions = packages_distributions()
    for path in modules(name):
        for module in imported(path) - set(sys.stdlib_module_names) - {PACKAGES[name], "__future__"}:
            owners = {canonical(d) for d in distributions.get(module, [_BY_ANOTHER_NAME.get(module, module)])}
            assert owners & declared, f"{path.relative_to(ROOT)} imports {module}, which {name} does not declare"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_declared_is_imported(name: str) -> None:
    distributions = packages_distributions()
    used = {canonical(d) for path in modules(name) for m in imported(path) for d in distributions.get(m, [m])}
    for requirement in project(name)["dependencies"]:
        assert canonical(Requirement(requirement).name) in used, f"{name} declares {requirement} and never imports it"


@pytest.mark.parametrize("name", PACKAGES)
def test_versions_and_change_logs_agree(name: str) -> None:
    source = (ROOT / "packages" / name / "src" / PACKAGES[name] / "__init__.py").read_text()
    version = re.search(r'^__version__ = "(.+)"', source, re.M)
    assert version is not None
    log = (ROOT / "packages" / name / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (\S+) - \d{4}-\d{2}-\d{2}$", log, re.M)
    assert heads[0] == version[1]
    for other in PACKAGES:
        for requirement in map(Requirement, project(other)["dependencies"]):
            if requirement.name == name:
                assert requirement.specifier.contains(version[1]), f"{other} does not take {name} {version[1]}"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_whole(name: str) -> None:
    folder = ROOT / "packages" / name
    assert (folder / "src" / PACKAGES[name] / "py.typed").is_file()
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert len((folder / "README.md").read_text()) > 1000
    assert project(name)["scripts"] == {name: f"{PACKAGES[name]}.cli:main"}


@pytest.mark.parametrize("name", PACKAGES)
def test_rooms(name: str) -> None:
    for path in modules(name):
        assert len(path.read_text().splitlines()) <= 400, f"{path.relative_to(ROOT)}: two rooms in one"
        assert path.stem not in {"utils", "util", "helpers", "common", "misc", "manager"}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_needs_no_torch(name: str, argument: str) -> None:
    code = (
        f"import sys; from {PACKAGES[name]}.cli import main\n"
        f"try: main([{argument!r}])\n"
        "finally: print('HEAVY', sorted({'torch', 'transformers', 'peft', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_the_registries_agree() -> None:
    """What moe-memprof can plan, moe-router can watch: a plan for a model whose routing cannot be seen would mislead."""
    from moe_memprof.architectures.registry import SUPPORTED
    from moe_router.architectures.support import SUPPORT

    assert set(SUPPORTED) <= set(SUPPORT)
