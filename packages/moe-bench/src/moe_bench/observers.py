"""Observers of a run: how the experts were used, how much memory it took, while answers are generated.

An observer comes from another package, through the entry point group `moe_bench.observers`: a class, made without arguments,
of the form of `Observer`. It needs nothing of moe-bench. What it returns is kept beside the answers, in `observed/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from moe_bench.errors import BenchError

GROUP = "moe_bench.observers"
PROTOCOL = 1
"""Raised when the form of `Observer` changes; an observer of another is not used, and the run's header says so."""


class Observer(Protocol):
    """What is called around the generation of answers, in this order: start, attach, groups and phases, stop, result."""

    protocol: int
    """The `PROTOCOL` it was written for."""

    def start(self) -> None:
        """Before the model is loaded."""
        ...

    def attach(self, model: Any) -> None:
        """Before the first answer.

        Args:
            model: the torch module, or None where answers come from elsewhere.

        Raises:
            ValueError: when there is nothing in it to observe, in one line.
        """
        ...

    def group(self, name: str) -> AbstractContextManager[Any]:
        """Around work on items of one reasoning operation (or task, where they have none)."""
        ...

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Around a phase: load; within a group, prompt (prompts are read) and answer (token by token)."""
        ...

    def stop(self) -> None:
        """After the last answer; the model is left as it was."""
        ...

    def result(self) -> dict[str, Any]:
        """What was observed, as plain values with a "schema".

        Raises:
            ValueError: when nothing was observed, in one line.
        """
        ...

    # Also, where it makes sense:
    #   merge(results: list[dict]) -> dict, a static method: the results of several sessions or processes as one;
    #   plot(result: dict, path: Path) -> None, a static method: a picture of a result, into an SVG file.


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The observers that are installed."""

    found: Mapping[str, type[Any]]
    sources: Mapping[str, str]
    """Package and version of each, by name."""
    broken: Mapping[str, str]
    """Why others cannot be used, by name."""


def installed() -> Plugins:
    """Every observer there is; what cannot be loaded is named, with the reason."""
    found: dict[str, type[Any]] = {}
    sources: dict[str, str] = {}
    broken: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        source = _source(point)
        try:
            observer = point.load()
            protocol = getattr(observer, "protocol", None)
        except Exception as error:  # noqa: BLE001 - a plug-in may fail in any way; its name and reason go into the header
            broken[point.name] = f"{source}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if protocol != PROTOCOL:
            broken[point.name] = f"{source}: written for protocol {protocol}, this moe-bench has {PROTOCOL}"
        elif point.name in found:
            broken[f"{point.name} of {source}"] = f"{sources[point.name]} provides one by that name already"
        else:
            found[point.name], sources[point.name] = observer, source
    return Plugins(found=found, sources=sources, broken=broken)


def _source(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


class Watch:
    """The observers of one run, told together what is going on."""

    def __init__(self, observers: Mapping[str, Observer]) -> None:
        self.observers = dict(observers)

    def __bool__(self) -> bool:
        return bool(self.observers)

    def _each(self, what: str, *arguments: Any) -> Iterator[Any]:
        for name, observer in self.observers.items():
            try:
                yield getattr(observer, what)(*arguments)
            except (ValueError, RuntimeError) as error:
                raise BenchError(f"observer {name}: {' '.join(str(error).split())}") from error

    def start(self) -> None:
        """Before the model is loaded."""
        list(self._each("start"))

    def attach(self, model: Any) -> None:
        """Before the first answer.

        Raises:
            BenchError: when an observer has nothing to observe in it.
        """
        list(self._each("attach", model))

    def stop(self) -> None:
        """After the last."""
        list(self._each("stop"))

    @contextmanager
    def group(self, name: str) -> Iterator[None]:
        """Around work on items of one group."""
        with ExitStack() as stack:
            for context in self._each("group", name):
                stack.enter_context(context)
            yield

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a phase."""
        with ExitStack() as stack:
            for context in self._each("phase", name):
                stack.enter_context(context)
            yield

    def results(self) -> dict[str, dict[str, Any]]:
        """What each observed."""
        return dict(zip(self.observers, self._each("result"), strict=True))


NOBODY = Watch({})
"""Nobody watches."""


def make_watch(names: Sequence[str], plugins: Plugins | None = None) -> Watch:
    """The observers of these names, made but not started.

    Raises:
        BenchError: for a name that is not installed or is broken, with what there is.
    """
    if not names:
        return NOBODY
    plugins = plugins or installed()
    for name in names:
        if name in plugins.broken:
            raise BenchError(f"observer {name}: cannot be loaded ({plugins.broken[name]})")
        if name not in plugins.found:
            there = (
                ", ".join(sorted(plugins.found)) or "none (moe-router has one of routing, moe-memprof one of memory)"
            )
            raise BenchError(f"observer {name!r} is not installed; installed are {there}")
    return Watch({name: plugins.found[name]() for name in dict.fromkeys(names)})
