"""Findings about how the weights are held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moe_memprof.audit.layout import MODULE_LIST_EXPERTS, Layout
from moe_memprof.audit.quantised import F32, Held, Loading, Quantisation, stored_dtype
from moe_memprof.audit.result import Finding, places
from moe_memprof.audit.versions import Stack
from moe_memprof.report import size
from moe_memprof.spec import BYTES

_LOGIT = 14
"""Bytes per logit of transformers' loss: three float32 tensors and the 16-bit logits."""
_BIG_VOCABULARY = 100_000


def loading_findings(
    layout: Layout,
    held: Sequence[Held],
    q: Quantisation,
    loading: Loading,
    config: Mapping[str, Any],
    stack: Stack,
    *,
    trains: bool,
) -> Iterator[Finding]:
    """What the loader does unasked. `trains` says whether adapters are asked for."""
    if q.refused:
        own = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}.get(q.method)
        mend = f"load it with {own}(dequantize=True) and quantise nothing, or take" if own else "take"
        yield Finding(rule="load-refused", severity="error", what=q.refused,
                      mend=f"{mend} a checkpoint in bfloat16 and keep the BitsAndBytesConfig")  # fmt: skip
    if q.method in ("4bit", "8bit"):
        yield from _unquantised_experts(layout, held, q, stack)
        yield from _misplaced(held, q)
        yield from _upcast(held, trains=trains)
    if q.method == "4bit":
        yield from _compute_dtype(held)
    if q.method in ("mxfp4", "fp8"):
        yield from _comes_quantised(held, q, config, trains=trains)
    if q.method == "unknown":
        name = q.config.get("quant_method", "unnamed")
        yield Finding(rule="quantisation-unchecked", severity="warning",
                      what=f"quant_method {name!r} of config.json is not described here: bytes are those of {q.dtype}")  # fmt: skip
    yield from _default_dtype(layout, q, loading, config, stack)
    vocabulary = max(
        (h.tensor.shape[0] for h in held if h.tensor.role == "embedding" and len(h.tensor.shape) == 2), default=0
    )
    if vocabulary >= _BIG_VOCABULARY and trains:
        yield Finding(
            rule="big-vocabulary", severity="note", cost=2048 * vocabulary * _LOGIT,
            what=f"{vocabulary:,} words: the stock loss takes {_LOGIT} bytes per logit, so much for every 2,048 tokens of a micro-batch",
            mend="a chunked loss, or fewer tokens in a micro-batch; `moe-memprof estimate` counts them",
        )  # fmt: skip


def _unquantised_experts(layout: Layout, held: Sequence[Held], q: Quantisation, stack: Stack) -> Iterator[Finding]:
    stay = [h for h in held if h.tensor.role == "routed expert" and not h.quantised and h.bytes > h.expected]
    if not stay:
        return
    gap = sum(h.bytes - h.expected for h in stay)
    share = sum(h.tensor.elements for h in stay) / sum(h.tensor.elements for h in held)
    call = "load_in_4bit" if q.method == "4bit" else "load_in_8bit"
    older = (
        "transformers<5 holds them as nn.Linear; or "
        if layout.model_type in MODULE_LIST_EXPERTS and stack.fused_experts
        else ""
    )
    yield Finding(
        rule="experts-unquantised",
        severity="error",
        what=f"{call} quantises nn.Linear modules only: the experts, {share:.0%} of the model, stay in {stay[0].form}",
        where=places(h.tensor.name for h in stay),
        cost=gap,
        mend=f"{older}a loader that quantises the fused parameters too (`moe-memprof estimate --method qlora --quantise-experts` "
        "counts that); or plan with the bytes held",
    )


def _misplaced(held: Sequence[Held], q: Quantisation) -> Iterator[Finding]:
    routers = [h.tensor.name for h in held if h.tensor.role == "router" and h.quantised]
    if routers:
        name = routers[0].split(".")[-2]
        yield Finding(
            rule="router-quantised", severity="warning", where=places(routers),
            what="the router is an nn.Linear here and is quantised with the rest: its choices change, and no byte worth having is saved",
            mend=f'llm_int8_skip_modules=["lm_head", "{name}"]',
        )  # fmt: skip
    heads = [h.tensor.name for h in held if h.tensor.name.startswith("lm_head.") and h.quantised]
    if heads and q.skip_modules is not None:
        yield Finding(
            rule="head-quantised", severity="warning", where=places(heads),
            what="llm_int8_skip_modules replaces the list that leaves the head out, so that lm_head is quantised",
            mend=f"llm_int8_skip_modules={['lm_head', *q.skip_modules]}",
        )  # fmt: skip
    skipped = [h for h in held if not h.quantised and h.tensor.kind == "linear" and h.bytes > h.expected]
    if skipped:
        yield Finding(
            rule="linear-unquantised", severity="note", where=places(h.tensor.name for h in skipped),
            what="left out of the quantisation by the skip list, by name, or because the class only derives from nn.Linear",
            cost=sum(h.bytes - h.expected for h in skipped),
        )  # fmt: skip


def _upcast(held: Sequence[Held], *, trains: bool) -> Iterator[Finding]:
    grown = [h for h in held if h.prepared > h.bytes]
    cost = sum(h.prepared - h.bytes for h in grown)
    if not cost or not trains:
        return
    total = sum(h.bytes for h in held)
    largest = sorted(grown, key=lambda h: h.bytes - h.prepared)
    yield Finding(
        rule="kbit-upcast",
        severity="error" if cost > total / 2 else "warning",
        what="prepare_model_for_kbit_training casts every 16-bit weight that is not packed in 4 bits to float32: "
        f"{size(total)} become {size(total + cost)}",
        where=places(h.tensor.name for h in largest),
        cost=cost,
        mend="do not call it: freeze with requires_grad_(False), call model.enable_input_require_grads(), "
        'gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False}), and cast the norms alone',
    )


def _compute_dtype(held: Sequence[Held]) -> Iterator[Finding]:
    largest = max((h.tensor.elements for h in held if h.quantised), default=0)
    if largest:
        yield Finding(
            rule="compute-dtype", severity="note", cost=largest * F32,
            what="bnb_4bit_compute_dtype is float32 unless given: weights are unpacked to it, the largest one takes this much",
            mend="BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.bfloat16)",
        )  # fmt: skip


def _comes_quantised(
    held: Sequence[Held], q: Quantisation, config: Mapping[str, Any], *, trains: bool
) -> Iterator[Finding]:
    packed = [h for h in held if h.quantised]
    width = BYTES[stored_dtype(config)]
    cost = sum(h.tensor.elements * width - h.bytes for h in packed)
    total = sum(h.bytes for h in held) + cost
    where = places(h.tensor.name for h in packed)
    if q.method == "mxfp4" and trains:
        yield Finding(
            rule="mxfp4-no-training", severity="error", where=where, cost=cost,
            what="MXFP4 weights cannot be trained on, with adapters neither: their quantiser says so, and the Trainer refuses",
            mend=f"Mxfp4Config(dequantize=True), which holds {size(total)} in {stored_dtype(config)}",
        )  # fmt: skip
        return
    needs = (
        "a GPU of compute capability 7.5, triton 3.4 and the kernels package"
        if q.method == "mxfp4"
        else "a GPU of compute capability 8.9 (RTX 4090, L40S, H100) or newer"
    )
    yield Finding(
        rule="falls-back-to-16-bit", severity="warning", where=where, cost=cost,
        what=f"{q.method.upper()} stays only with {needs}; without, loading dequantises to {size(total)} with a log line",
        mend="check that first, and plan with the larger figure where it is not so",
    )  # fmt: skip


def _default_dtype(
    layout: Layout, q: Quantisation, loading: Loading, config: Mapping[str, Any], stack: Stack
) -> Iterator[Finding]:
    if loading.dtype is not None or stack.fused_experts or q.dtype == stored_dtype(config):
        return
    wider = BYTES[q.dtype] - BYTES[stored_dtype(config)]
    elements = sum(t.elements for t in layout.tensors)
    yield Finding(
        rule="default-dtype",
        severity="error" if wider > 0 else "warning",
        what=f"transformers {stack.transformers.version} loads in {q.dtype} unless told otherwise; config.json says {stored_dtype(config)}",
        cost=wider * elements if wider > 0 else None,
        mend=f"from_pretrained(..., dtype=torch.{stored_dtype(config)})",
    )
