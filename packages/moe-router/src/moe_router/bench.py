"""Routing while a benchmark is answered: the observer that moe-bench finds under the name `routing`.

It is told when work on a group of items (a reasoning operation) begins, and gives how often every expert worked, how evenly, and
how far experts belong to operations; the prompts, which were given, apart from the answers, which the model wrote.

Shapes: G groups, L MoE layers, E experts of a layer, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

SCHEMA = "moe-router/bench@1"
_PERMUTATIONS = 199


class RoutingObserver:
    """Counts the executed routing of a model while it answers."""

    protocol = 1

    def __init__(self) -> None:
        self._recorder: Any = None
        self._open = False

    def start(self) -> None:
        """There is nothing to see before there is a model."""

    def attach(self, model: Any) -> None:
        """Hook the routers.

        Raises:
            RouterError: for no model, or one without MoE layers.
        """
        from moe_router.capture import RoutingRecorder
        from moe_router.errors import RouterError

        if model is None:
            raise RouterError("there is no model here whose routers could be seen; run it here and not behind a server")
        self._recorder = RoutingRecorder(model)
        self._recorder.__enter__()
        self._open = True

    def group(self, name: str) -> AbstractContextManager[Any]:
        """Count what is routed inside under this name."""
        context: AbstractContextManager[Any] = self._recorder.group(name)
        return context

    def phase(self, name: str) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Prompts and answers are told apart by what the model is given."""
        return nullcontext()

    def stop(self) -> None:
        """Unhook the routers."""
        if self._open:
            self._recorder.__exit__(None, None, None)
            self._open = False

    def result(self) -> dict[str, Any]:
        """Counts and what follows from them, schema moe-router/bench@1.

        Raises:
            RouterError: when nothing was recorded.
        """
        from moe_router.capture import GENERATED

        trace = self._recorder.trace()
        parts = {}
        for part in ("prompt", "answer"):
            names = [g for g in trace.groups if g.endswith(GENERATED) == (part == "answer")]
            if names:
                parts[part] = {"groups": _counts(trace, names), "specialisation": _tested(trace, names)}
        return _complete(
            {
                "schema": SCHEMA,
                "layers": list(trace.layers),
                "experts_L": list(trace.experts_L),
                "top_k_L": list(trace.top_k_L),
                "parts": parts,
            }
        )

    @staticmethod
    def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The results of several sessions or processes as one; what chance gives is not known of joined counts.

        Raises:
            RouterError: for results of different models.
        """
        from moe_router.errors import RouterError

        first = results[0]
        parts: dict[str, Any] = {}
        for result in results:
            if any(result[name] != first[name] for name in ("schema", "layers", "experts_L", "top_k_L")):
                raise RouterError("results of different models cannot be joined")
            for part, values in result["parts"].items():
                groups = parts.setdefault(part, {"groups": {}, "specialisation": None})["groups"]
                for name, found in values["groups"].items():
                    groups[name] = _added(groups[name], found) if name in groups else found
        kept = {name: first[name] for name in ("schema", "layers", "experts_L", "top_k_L")}
        return _complete({**kept, "parts": parts})

    @staticmethod
    def plot(result: Mapping[str, Any], path: Path) -> None:
        """Draw a result: the load of every expert in every layer, and how even it is for each group. Needs matplotlib."""
        import matplotlib as mpl
        import numpy as np
        from matplotlib.colors import TwoSlopeNorm
        from matplotlib.figure import Figure

        part = "answer" if "answer" in result["parts"] else "prompt"
        values = result["parts"][part]
        load_LE = np.full((len(result["layers"]), max(result["experts_L"])), np.nan)
        for n, counts_E in enumerate(_total(values["groups"])):
            load_LE[n, : len(counts_E)] = np.array(counts_E) * len(counts_E) / max(1, sum(counts_E))
        groups = list(values["groups"])
        with mpl.rc_context({"svg.hashsalt": "moe-router", "svg.fonttype": "none", "font.size": 9}):
            figure = Figure(figsize=(10, max(2.6, 1.2 + 0.24 * max(len(load_LE), len(groups)))), layout="constrained")
            left, right = figure.subplots(1, 2, width_ratios=(3, 2))
            top = max(1.5, float(np.nanmax(load_LE)))
            image = left.imshow(load_LE, aspect="auto", cmap="RdBu_r", norm=TwoSlopeNorm(vmin=0, vcenter=1, vmax=top))
            left.set(xlabel="expert", ylabel="MoE layer", title=f"load over the mean, {part}s")
            figure.colorbar(image, ax=left)
            right.barh(range(len(groups)), [values["groups"][g]["balance"] for g in groups], color="#2563eb")
            right.set_yticks(range(len(groups)), groups)
            right.invert_yaxis()
            right.set(xlim=(0, 1), title="balance (1 is even)")
            kind = path.suffix.lstrip(".") or "svg"
            figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _counts(trace: Any, names: Sequence[str]) -> dict[str, Any]:
    from moe_router.capture import GENERATED

    return {
        name.removesuffix(GENERATED): {
            "tokens": int(trace.tokens_G[trace.groups.index(name)]),
            "counts_LE": [trace.layer_counts(n, group=name).tolist() for n in range(len(trace.layers))],
        }
        for name in names
    }


def _tested(trace: Any, names: Sequence[str]) -> dict[str, Any] | None:
    """How much the group tells of the expert, and how much it would by chance; None where there are too few items to say."""
    import numpy as np

    from moe_router.errors import RouterError
    from moe_router.metrics.groups import specialization

    numbers = [trace.groups.index(name) for name in names]
    kept_U = np.isin(trace.unit_group_U, numbers)
    place = np.zeros(len(trace.groups), dtype=np.int64)
    place[numbers] = np.arange(len(numbers))
    of_units = ("counts_ULE", "first_ULE", "idle_UL", "repeats_UL", "pairs_U", "tokens_U", "sequences_U")
    alone = replace(
        trace,
        groups=tuple(names),
        unit_group_U=place[trace.unit_group_U[kept_U]],
        mass_GLE=trace.mass_GLE[numbers],
        types=(),
        types_FCLE=None,
        coactivation_FLEE=None,
        transitions_FLEE=None,
        **{name: getattr(trace, name)[kept_U] for name in of_units},
    )
    try:
        found = specialization(alone, permutations=_PERMUTATIONS)
    except RouterError:
        return None
    return {
        "bits_L": found.bits_L.tolist(),
        "chance_bits_L": found.chance_bits_L.tolist(),
        "q_L": found.q_L.tolist(),
        "permutations": _PERMUTATIONS,
    }


def _added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    counts = [[x + y for x, y in zip(p, q, strict=True)] for p, q in zip(a["counts_LE"], b["counts_LE"], strict=True)]
    return {"tokens": a["tokens"] + b["tokens"], "counts_LE": counts}


def _total(groups: Mapping[str, Any]) -> list[list[int]]:
    layers = zip(*(group["counts_LE"] for group in groups.values()), strict=True)
    return [[sum(expert) for expert in zip(*rows, strict=True)] for rows in layers]


def _complete(result: dict[str, Any]) -> dict[str, Any]:
    """Add what follows from the counts: balance, dead experts, the experts' specialisation, and words for a terminal."""
    import numpy as np

    from moe_router.metrics.specialization import specialization_score

    for values in result["parts"].values():
        groups = values["groups"]
        for group in groups.values():
            group["balance"] = _balance(group["counts_LE"])
        values["layers"] = [_layer(counts_E) for counts_E in _total(groups)]
        values["balance"] = _balance(_total(groups))
        full = [g for g in groups.values() if g["tokens"]]
        values["score_LE"] = None
        if len(full) > 1:
            score_LE = [specialization_score([g["counts_LE"][n] for g in full]) for n in range(len(result["layers"]))]
            values["score_LE"] = [[None if np.isnan(s) else round(float(s), 6) for s in layer] for layer in score_LE]
    result["summary"] = [_line(part, values) for part, values in result["parts"].items()]
    return result


def _balance(counts_LE: Sequence[Sequence[int]]) -> float:
    """Mean over layers of the normalised entropy of the load: 1 when every expert works as much, 0 when one does everything."""
    from moe_router.metrics.load import normalised_entropy

    used = [normalised_entropy(counts_E) for counts_E in counts_LE if sum(counts_E)]
    return sum(used) / len(used) if used else 0.0


def _layer(counts_E: Sequence[int]) -> dict[str, Any]:
    from moe_router.metrics.load import dead_experts, gini, max_violation, normalised_entropy

    if not sum(counts_E):
        return {"balance": 0.0, "max_violation": None, "gini": None, "dead": list(range(len(counts_E)))}
    return {
        "balance": normalised_entropy(counts_E),
        "max_violation": max_violation(counts_E),
        "gini": gini(counts_E),
        "dead": dead_experts(counts_E),
    }


def _line(part: str, values: Mapping[str, Any]) -> str:
    tokens = sum(group["tokens"] for group in values["groups"].values())
    busiest = max((layer["max_violation"] or 0.0) + 1 for layer in values["layers"])
    dead = sum(len(layer["dead"]) for layer in values["layers"])
    by_group = ", ".join(f"{name} {group['balance']:.3f}" for name, group in values["groups"].items())
    tested = values["specialisation"]
    bits = ""
    if tested is not None:
        seen, chance = (sum(tested[k]) / len(tested[k]) for k in ("bits_L", "chance_bits_L"))
        bits = f"; the operation tells {seen:.3f} bits of the expert (by chance {chance:.3f})"
    return (
        f"{part}s, {tokens:,} tokens: balance {values['balance']:.3f} of 1 ({by_group}); busiest expert {busiest:.1f} times the mean, "
        f"{dead} unused{bits}"
    )
