"""The place where a model of natural-language inference can be plugged in. There is none in this package, and nothing acts as one.

A model comes from another package, through the entry point group `moe_bench.nli`: a class, made without arguments, of the form of
`Entailment`. What cannot be used is named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, Protocol

from moe_bench.checkers.base import Finding, Status
from moe_bench.errors import BenchError

GROUP = "moe_bench.nli"
PROTOCOL = 1
"""Raised when the form of `Entailment` changes; a model of another is not used."""


class Label(StrEnum):
    """How a hypothesis stands to a premise."""

    ENTAIL = "entail"
    CONTRADICT = "contradict"
    NEUTRAL = "neutral"


class Inference(NamedTuple):
    """What a model says of one pair."""

    label: Label
    score: float
    """How sure it is, from 0 to 1."""


class Entailment(Protocol):
    """A model of natural-language inference."""

    protocol: int
    """The `PROTOCOL` it was written for."""

    @property
    def name(self) -> str:
        """Which model it is; stands in the reasons of findings."""
        ...

    def relate(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, float]]:
        """For every (premise, hypothesis): "entail", "contradict" or "neutral", and a score from 0 to 1, in the same order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The models that are installed."""

    found: Mapping[str, type[Any]]
    broken: Mapping[str, str]
    """Why others cannot be used, by name."""


def installed() -> Plugins:
    """Every model there is; what cannot be loaded is named, with the reason."""
    found: dict[str, type[Any]] = {}
    broken: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        source = _source(point)
        try:
            model = point.load()
            protocol = getattr(model, "protocol", None)
        except Exception as error:  # noqa: BLE001 - a plug-in may fail in any way; its name and reason are shown
            broken[point.name] = f"{source}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if protocol != PROTOCOL:
            broken[point.name] = f"{source}: written for protocol {protocol}, this moe-bench has {PROTOCOL}"
        elif point.name in found:
            broken[f"{point.name} of {source}"] = "another package provides one by that name already"
        else:
            found[point.name] = model
    return Plugins(found=found, broken=broken)


def make_entailment(name: str, plugins: Plugins | None = None) -> Entailment:
    """The model of this name, made.

    Raises:
        BenchError: it is not installed, is broken, or cannot be made; with the reason.
    """
    plugins = plugins or installed()
    if name in plugins.broken:
        raise BenchError(f"NLI model {name}: cannot be loaded ({plugins.broken[name]})")
    if name not in plugins.found:
        there = (
            ", ".join(sorted(plugins.found)) or f"none (a package provides one through the entry point group {GROUP})"
        )
        raise BenchError(f"NLI model {name!r} is not installed; installed are {there}")
    try:
        made: Entailment = plugins.found[name]()
    except Exception as error:
        raise BenchError(
            f"NLI model {name}: cannot be made ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    return made


def contradictions_by_model(
    model: Entailment, threshold: float, problem: str, steps: Sequence[str]
) -> Iterator[Finding]:
    """A finding for every step that the model says contradicts the problem or an earlier step, at least so surely.

    Raises:
        BenchError: the model's reply is not of the form of `Entailment.relate`; with the model's name.
    """
    earlier = [(-1, problem), *enumerate(steps)]
    places = [(i, j) for j in range(len(steps)) for i, _ in earlier[: j + 1] if i >= 0 or problem.strip()]
    texts = dict(earlier)
    replies = _replies(model, [(texts[i], steps[j]) for i, j in places])
    strongest: dict[int, tuple[float, int]] = {}
    for (i, j), inference in zip(places, replies, strict=True):
        if inference.label is Label.CONTRADICT and inference.score >= threshold:
            strongest[j] = max(strongest.get(j, (0.0, -1)), (inference.score, i))
    for j, (score, i) in sorted(strongest.items()):
        yield Finding(
            step=j,
            status=Status.INVALID,
            checker="consistency",
            reason=f"{model.name} says it contradicts {'the problem' if i < 0 else f'step {i + 1}'} (score {score:.2f})",
            against=i if i >= 0 else None,
        )


def _replies(model: Entailment, pairs: Sequence[tuple[str, str]]) -> list[Inference]:
    if not pairs:
        return []
    try:
        replies = [Inference(Label(label), float(score)) for label, score in model.relate(pairs)]
    except Exception as error:
        raise BenchError(
            f"NLI model {model.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    if len(replies) != len(pairs) or not all(0 <= r.score <= 1 for r in replies):
        raise BenchError(
            f"NLI model {model.name}: {len(replies)} replies with scores to {len(pairs)} pairs; one each from 0 to 1 is needed"
        )
    return replies


def _source(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
