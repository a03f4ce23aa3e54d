"""The audit of a config: loading, adapting, and what comes of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_memprof.architectures.registry import describe
from moe_memprof.audit.layout import layout_of
from moe_memprof.audit.peft_targets import resolve_targets
from moe_memprof.audit.quantised import Loading, Quantisation, held_weights, quantisation_of, stored_dtype
from moe_memprof.audit.request import LoraRequest
from moe_memprof.audit.result import SEVERITIES, Audit, rows_of
from moe_memprof.audit.rules_loading import loading_findings
from moe_memprof.audit.rules_lora import lora_findings
from moe_memprof.audit.versions import Stack, resolve_stack


def audit_model(
    config: Mapping[str, Any],
    *,
    loading: Loading | None = None,
    lora: LoraRequest | None = None,
    stack: Stack | None = None,
) -> Audit:
    """What a stack of libraries makes of a model.

    Args:
        config: the model's config.json.
        loading: how from_pretrained is called; as it stands where None.
        lora: what is to be adapted; nothing where None.
        stack: the releases; the installed ones where None.

    Returns:
        Bytes expected and held by role, what is adapted, and findings, the most severe and costly first.

    Raises:
        MemprofError: for a config or a request that cannot be.
    """
    loading = loading or Loading()
    stack = stack or resolve_stack()
    layout = layout_of(describe(config), stack)
    quantisation = quantisation_of(config, loading, stack)
    held = held_weights(layout, quantisation, stack, plain=loading.dtype or stored_dtype(config))
    findings = list(loading_findings(layout, held, quantisation, loading, config, stack, trains=lora is not None))
    targets = None
    if lora is not None:
        targets = resolve_targets(lora, layout, stack)
        findings += lora_findings(layout, held, targets)
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.rule != "experts-unquantised", -(f.cost or 0)))
    adapted = targets.adapted if targets is not None and targets.refused is None else ()
    return Audit(
        model_type=layout.model_type,
        stack=stack,
        loading=_in_words(quantisation),
        rows=rows_of(held, targets),
        findings=tuple(findings),
        adapted_modules=tuple(a.tensor.name.removesuffix(".weight") for a in adapted if a.through == "module"),
        adapted_parameters=tuple(a.tensor.name for a in adapted if a.through == "parameter"),
    )


def _in_words(q: Quantisation) -> str:
    if q.method in ("4bit", "8bit"):
        return f"load_in_{q.method}{', double quantisation' if q.double_quant else ''}, the rest in {q.dtype}"
    if q.method == "none":
        return f"in {q.dtype}"
    if q.method == "unknown":
        return f"quantised by {q.config.get('quant_method', 'an unnamed method')}, counted in {q.dtype}"
    return f"the checkpoint's {q.method.upper()}, the rest in {q.dtype}"
