"""Findings about what is adapted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from moe_memprof.audit.layout import Layout
from moe_memprof.audit.matching import check
from moe_memprof.audit.peft_targets import Targets
from moe_memprof.audit.quantised import F32, Held
from moe_memprof.audit.result import Finding, places
from moe_memprof.report import size

_EXPERT_NAMES = {"w1", "w2", "w3", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "experts", "all-linear"}
_ADAMW = 16
"""Bytes per trained parameter: the float32 weight, its gradient and AdamW's two moments."""


def lora_findings(layout: Layout, held: Sequence[Held], targets: Targets) -> Iterator[Finding]:
    """What peft adapts, leaves, or refuses, against what was asked."""
    by_name = {h.tensor.name: h for h in held}
    if targets.refused:
        yield Finding(
            rule="peft-refuses", severity="error", what=f"peft raises: {targets.refused}", mend=_mend(layout, targets)
        )
    else:
        yield from _experts(layout, targets)
        yield from _router(targets)
        yield from _converted(layout, targets)
        yield from _beyond_reach(targets)
        yield from _parameters(targets, by_name)
        yield from _saved(layout, targets, by_name)
        yield _size(targets)
    yield from _unmatched(layout, targets)


def _fused_targets(layout: Layout) -> list[str]:
    """target_parameters that reach the fused experts of this model, as few words as are unambiguous."""
    names = {
        ".".join(t.name.split(".")[-2:]) for t in layout.tensors if t.role == "routed expert" and len(t.shape) == 3
    }
    return sorted(names)


def _mend(layout: Layout, targets: Targets) -> str:
    attention = sorted({t.name.split(".")[-2] for t in layout.tensors if t.role == "attention" and t.kind == "linear"})
    if targets.asked.dropout and "lora_dropout" in (targets.refused or ""):
        return "lora_dropout=0, or adapt no experts"
    fused = _fused_targets(layout)
    return f"target_modules={attention}" + (f", target_parameters={fused}" if fused else "")


def _experts(layout: Layout, targets: Targets) -> Iterator[Finding]:
    experts = [t for t in layout.tensors if t.role == "routed expert"]
    if not experts or any(a.tensor.role == "routed expert" for a in targets.adapted):
        return
    share = sum(t.elements for t in experts) / sum(t.elements for t in layout.tensors)
    asked = targets.asked.target_modules
    names = {asked} if isinstance(asked, str) else set(asked or ())
    names |= targets.asked.target_parameters or set()
    meant = any(set(re.split(r"\W+", name)) & _EXPERT_NAMES or name.lower() == "all-linear" for name in names)
    fused = _fused_targets(layout)
    mend = (
        f"target_parameters={fused} (with lora_dropout=0)" if fused else "name the experts' modules in target_modules"
    )
    yield Finding(
        rule="experts-unadapted",
        severity="error" if meant else "note",
        what=("the targets read as if they took in the experts, but " if meant else "")
        + f"no routed expert is adapted: {share:.0%} of the model stays as it is",
        where=places(t.name for t in experts),
        mend=mend if meant else f"if that is not meant: {mend}",
    )


def _router(targets: Targets) -> Iterator[Finding]:
    routers = [a.tensor.name for a in targets.adapted if a.tensor.role == "router"]
    if not routers:
        return
    if targets.conversion.names:
        mend = "list the modules by name, without 'gate'; exclude_modules does not reach parameters"
    else:
        mend = f'exclude_modules=["{routers[0].split(".")[-2]}"]'
    yield Finding(rule="router-adapted", severity="warning", where=places(routers), mend=mend,
                  what="the router gets an adapter: routing moves while it trains, with no auxiliary loss unless one is set")  # fmt: skip


def _converted(layout: Layout, targets: Targets) -> Iterator[Finding]:
    """What peft's rewriting for the experts of transformers 5 takes away or adds."""
    conversion, asked = targets.conversion, targets.asked
    if not conversion.names:
        return
    adapted = {a.tensor.name.removesuffix(".weight") for a in targets.adapted if a.through == "module"}
    reachable = {m.name for m in layout.modules.values() if m.kind == "linear" and m.name != "lm_head"}
    if isinstance(asked.target_modules, str) and asked.target_modules.lower() == "all-linear":
        wanted = reachable - set(targets.excluded)
    else:
        wanted = {name for name in reachable if check(asked, name) is True}
    lost = sorted(wanted - adapted)
    if lost:
        parameters = sorted({".".join([*name.split(".")[-2:], "weight"]) for name in lost})
        yield Finding(
            rule="conversion-drops", severity="error", where=places(lost),
            what=f"peft turns {', '.join(sorted(set(conversion.names) - {'gate'}))} into the experts' parameters, so that {len(lost)} "
            "nn.Linear of those names (shared experts, dense layers) are not adapted",
            mend=f"leave those names out of target_modules; target_parameters={[*_fused_targets(layout), *parameters]}",
        )  # fmt: skip
    if isinstance(asked.target_modules, str) and asked.target_modules.lower() != "all-linear":
        more = sorted(adapted - wanted)
        if more:
            yield Finding(
                rule="conversion-widens", severity="error", where=places(more),
                what=f"the regex matches {len(wanted)} modules, but peft keeps only the last part of their names and adapts {len(adapted)}",
                mend="for some layers only: target_modules as a list, with layers_to_transform",
            )  # fmt: skip
    if conversion.doubled:
        yield Finding(
            rule="rank-doubled", severity="note",
            what=f"gate_up_proj gets rank {2 * asked.rank}, twice the {asked.rank} asked for: gate and up are one parameter",
            mend='target_parameters=["experts.gate_up_proj", "experts.down_proj"] keeps the rank',
        )  # fmt: skip


def _beyond_reach(targets: Targets) -> Iterator[Finding]:
    """Limits of a request that hold for modules and not for parameters."""
    names = [a.tensor.name for a in targets.adapted if a.through == "parameter"]
    asked = targets.asked
    if names and asked.layers_to_transform:
        outside = [n for n in names if not re.search(rf"\.({'|'.join(map(str, asked.layers_to_transform))})\.", n)]
        if outside:
            yield Finding(rule="layers-ignored", severity="error", where=places(outside),
                          what="layers_to_transform does not hold for target_parameters: they are adapted in every layer",
                          mend='full paths in target_parameters, such as "layers.3.mlp.experts.down_proj"')  # fmt: skip
    if asked.exclude_modules:
        holders = {n: n.rpartition(".")[0] for n in names}
        hit = [n for n, holder in holders.items() if check(replace(asked, target_modules=None), holder) == "excluded"]
        if hit:
            yield Finding(rule="exclusion-ignored", severity="error", where=places(hit),
                          what="exclude_modules does not hold for target_parameters: these are adapted all the same",
                          mend="leave their names out of target_modules and target_parameters")  # fmt: skip


def _parameters(targets: Targets, held: Mapping[str, Held]) -> Iterator[Finding]:
    wrapped = [held[a.tensor.name] for a in targets.adapted if a.through == "parameter" and a.tensor.name in held]
    fp8 = [h for h in wrapped if h.form == "fp8"]
    if fp8:
        yield Finding(rule="fp8-parameter", severity="warning", where=places(h.tensor.name for h in fp8),
                      what="target_parameters on FP8 weights: whether peft's adapter and their scales go together is not checked here",
                      mend="--dequantize counts the model in 16 bits; or target_modules alone")  # fmt: skip
    packed = [h for h in wrapped if h.quantised and h.form != "fp8"]
    if packed:
        yield Finding(
            rule="packed-parameter", severity="error", where=places(h.tensor.name for h in packed),
            what="target_parameters on packed weights: peft takes the packed tensor's shape and adds the adapter to the bytes",
            mend="target_modules for quantised nn.Linear; fused experts in 16 bits, or a loader with an adapter of its own",
        )  # fmt: skip
    stacks = [h for h in wrapped if h.tensor.role == "routed expert" and not h.quantised]
    if stacks:
        layers: dict[int | None, int] = {}
        for h in stacks:
            layers[h.tensor.layer] = layers.get(h.tensor.layer, 0) + h.bytes
        largest, total = max(layers.values()), sum(layers.values())
        doubled = (
            ", and twice that after prepare_model_for_kbit_training" if stacks[0].prepared > stacks[0].bytes else ""
        )
        yield Finding(
            rule="delta-materialised", severity="warning", cost=total, where=places(h.tensor.name for h in stacks),
            what="peft builds W + ΔW of all experts in every forward pass and autograd keeps it: "
            f"{size(largest)} a layer, as much again for its gradient" + doubled,
            mend="gradient checkpointing, which keeps one layer's at a time; or an expert LoRA in grouped matmuls",
        )  # fmt: skip


def _saved(layout: Layout, targets: Targets, held: Mapping[str, Held]) -> Iterator[Finding]:
    if not targets.saved:
        return
    elements = sum(t.elements for t in targets.saved)
    copies = sum(h.bytes if (h := held.get(t.name)) else t.elements * _width(held) for t in targets.saved)
    tied = layout.tied and any(t.role == "embedding" for t in targets.saved)
    yield Finding(
        rule="saved-copies", severity="warning", where=places(t.name for t in targets.saved), cost=copies + elements * (_ADAMW - F32),
        what=f"modules_to_save copies {elements / 1e6:.1f} M parameters whole and trains them: copy, gradient and AdamW's moments"
        + ("; head and embedding are tied in the model and come apart in the adapter" if tied else ""),
        mend="trainable_token_indices for a few new tokens" + (", or ensure_weight_tying=True" if tied else ""),
    )  # fmt: skip


def _width(held: Mapping[str, Held]) -> int:
    table = next(h for h in held.values() if h.tensor.role == "embedding")
    return table.bytes // table.tensor.elements


def _size(targets: Targets) -> Finding:
    n = targets.elements
    modules = sum(a.through == "module" for a in targets.adapted)
    return Finding(rule="adapter-size", severity="note", cost=n * _ADAMW,
                   what=f"{n / 1e6:.1f} M adapter parameters on {modules} modules and {len(targets.adapted) - modules} parameters; "
                   f"float32 weight, gradient and AdamW's moments")  # fmt: skip


def _unmatched(layout: Layout, targets: Targets) -> Iterator[Finding]:
    """Names that match nothing at all, one by one: peft speaks up only where none of them does."""
    asked, conversion = targets.asked, targets.conversion
    tensors = [t.name for t in layout.tensors]
    idle = []
    if isinstance(asked.target_modules, frozenset):
        for name in sorted(asked.target_modules):
            new = conversion.becomes(name)
            reached = tensors if new else list(layout.modules)
            if not any(key == (new or name) or key.endswith(f".{new or name}") for key in reached):
                idle.append(f"target_modules: {name}")
    idle += [
        f"target_parameters: {name}"
        for name in sorted(asked.target_parameters or ())
        if not any(key == name or key.endswith(f".{name}") for key in tensors)
    ]
    idle += [
        f"modules_to_save: {name}"
        for name in asked.modules_to_save
        if not any(key.endswith(name) for key in layout.modules)
    ]
    if asked.exclude_modules and not targets.excluded:
        idle.append("exclude_modules")
    if idle:
        yield Finding(rule="matches-nothing", severity="warning", what="these match nothing in the model, and peft does not say so",
                      where=tuple(idle), mend=_mend(layout, targets))  # fmt: skip
