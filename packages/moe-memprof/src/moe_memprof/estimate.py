"""The estimate: four phases, each the sum of what is in memory at its highest moment. Nothing here imports torch."""

from __future__ import annotations

import difflib

from moe_memprof.architectures.base import Model
from moe_memprof.architectures.registry import describe
from moe_memprof.errors import MemprofError
from moe_memprof.parallel import check, host_parts
from moe_memprof.phases import evaluate_phase, load_phase, save_phase, step_phase
from moe_memprof.plan import Estimate, Phase
from moe_memprof.replay.exactness import beyond_the_replay
from moe_memprof.spec import RunSpec
from moe_memprof.weights import trained

NOT_MODELLED = (
    "workspaces of kernels and libraries (cuBLAS, NCCL)",
    "the data, its tokens and the tokenizer",
    "what other processes take on the same device",
)


def estimate(spec: RunSpec) -> Estimate:
    """What the fine-tune takes, phase by phase.

    Raises:
        MemprofError: for a config that is not covered or not complete.
    """
    model = described(spec)
    check(model, spec.parallel)
    trains = trained(model, spec)
    phases = (
        load_phase(model, spec),
        step_phase(model, spec, trains),
        evaluate_phase(model, spec, trains),
        save_phase(model, spec, trains),
    )
    _check_overrides(spec, phases)
    return Estimate(
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        trainable_parameters=sum(t.elements for t in trains),
        phases=phases,
        host=tuple(host_parts(model, trains, spec)),
        not_modelled=(*NOT_MODELLED, *beyond_the_replay(spec.config)),
    )


def _check_overrides(spec: RunSpec, phases: tuple[Phase, ...]) -> None:
    names = sorted({part.name for phase in phases for part in phase.parts})
    for name in spec.overrides:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
            raise MemprofError(f"override {name!r}: no part of this plan has that name{hint}")


_last: tuple[object, Model] | None = None


def described(spec: RunSpec) -> Model:
    """The model of a run; the last one is kept, for a search asks for the same many times."""
    global _last
    if _last is None or _last[0] is not spec.config:
        _last = (spec.config, describe(spec.config))
    return _last[1]
