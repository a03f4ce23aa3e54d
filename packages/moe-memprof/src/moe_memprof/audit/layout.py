"""The module tree that a release of transformers builds, out of the inventory of the newest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from moe_memprof.architectures.base import Model, TensorSpec
from moe_memprof.audit.versions import Stack
from moe_memprof.errors import MemprofError

ModuleKind = Literal["linear", "embedding", "conv", "norm", "other"]

_GATED = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("w1", "w3", "w2")

# How transformers 4.57 held the experts: names of gate, up and down in a module per expert, and whether the router was an nn.Linear.
MODULE_LIST_EXPERTS: dict[str, tuple[tuple[str, str, str], bool]] = {
    **dict.fromkeys(("mixtral", "minimax", "phimoe"), (_MIXTRAL, True)),
    **dict.fromkeys(
        ("qwen2_moe", "qwen3_moe", "qwen3_next", "olmoe", "flex_olmo", "ernie4_5_moe", "jamba"), (_GATED, True)
    ),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "dots1", "glm4_moe", "hunyuan_v1_moe", "longcat_flash"), (_GATED, False)
    ),
}
_BLOCK_SPARSE = {"mixtral", "minimax", "phimoe"}
# Parameters there too, but under other names; the router was an nn.Linear.
_PARALLEL_EXPERTS = {"granitemoe", "granitemoeshared"}
_UNCHANGED = {"gpt_oss", "llama4_text", "jetmoe", "doge"}

LINEAR_SUBCLASSES = ("feed_forward.router", "self_attn.o_a_proj", "multihead_attn.out_proj")
"""Modules that derive from nn.Linear: LoRA takes them, bitsandbytes in transformers 5 only replaces nn.Linear itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One named module."""

    name: str
    kind: ModuleKind
    tensors: tuple[TensorSpec, ...]
    """Those that it holds itself."""
    exact: bool = True
    """For a linear one: the class is nn.Linear itself, not a subclass."""

    @property
    def weight(self) -> TensorSpec:
        """The weight of a linear, embedding or convolution module."""
        return next(t for t in self.tensors if t.name.endswith(".weight"))


@dataclass(frozen=True)
class Layout:
    """Every tensor and every module, as one release has them. Modules without a weight anywhere below are not in it."""

    model_type: str
    tied: bool
    tensors: tuple[TensorSpec, ...]

    @cached_property
    def modules(self) -> Mapping[str, Module]:
        """By name, parents before children."""
        held: dict[str, list[TensorSpec]] = {}
        for tensor in self.tensors:
            parts = tensor.name.split(".")[:-1]
            for end in range(1, len(parts) + 1):
                held.setdefault(".".join(parts[:end]), [])
            held.setdefault(".".join(parts), []).append(tensor)
        head = self.tied_head
        if head is not None:
            held["lm_head"] = [head]
        return {name: self._module(name, tensors) for name, tensors in held.items() if name}

    @cached_property
    def tied_head(self) -> TensorSpec | None:
        """The head that shares the embedding's weight: a module of its own without a tensor of its own."""
        if not self.tied or any(t.name == "lm_head.weight" for t in self.tensors):
            return None
        table = next((t for t in self.tensors if t.kind == "embedding" and t.role == "embedding"), None)
        return None if table is None else replace(table, name="lm_head.weight", kind="linear")

    def _module(self, name: str, tensors: list[TensorSpec]) -> Module:
        kinds = {t.kind for t in tensors}
        kind: ModuleKind = "other"
        for known in ("linear", "embedding", "conv", "norm"):
            if known in kinds and any(t.name == f"{name}.weight" for t in tensors):
                kind = known
        exact = not name.endswith(LINEAR_SUBCLASSES) and not (
            self.model_type == "phimoe" and name.endswith("mlp.router")
        )
        return Module(name=name, kind=kind, tensors=tuple(tensors), exact=exact)


def layout_of(model: Model, stack: Stack) -> Layout:
    """The modules and parameters of the named release.

    Raises:
        MemprofError: for transformers 4 and a model type whose modules there are not known.
    """
    if stack.fused_experts:
        return Layout(model.model_type, model.tied, model.tensors)
    kind = model.model_type
    if kind not in {*MODULE_LIST_EXPERTS, *_PARALLEL_EXPERTS, *_UNCHANGED}:
        raise MemprofError(
            f"audit: how transformers {stack.transformers.version} holds a {kind!r} is not known here; "
            "name a release from 5.0 on with --transformers"
        )
    return Layout(kind, model.tied, tuple(new for tensor in model.tensors for new in _as_of_4(tensor, kind)))


def _as_of_4(tensor: TensorSpec, kind: str) -> Iterator[TensorSpec]:
    prefix, _, leaf = tensor.name.rpartition(".")
    if kind in _PARALLEL_EXPERTS:
        old = {"gate_up_proj": "input_linear", "down_proj": "output_linear"}
        if tensor.role == "routed expert":
            yield replace(tensor, name=f"{prefix.removesuffix('.experts')}.{old[leaf]}.weight")
        elif tensor.role == "router":
            yield replace(tensor, name=f"{prefix}.layer.{leaf}", kind="linear")
        else:
            yield tensor
        return
    if kind in _UNCHANGED:
        yield tensor
        return
    names, linear_router = MODULE_LIST_EXPERTS[kind]
    if tensor.role == "routed expert" and tensor.kind == "parameter" and len(tensor.shape) == 3:
        yield from _module_list(replace(tensor, name=_old_block(tensor.name, kind)), names)
    elif tensor.role == "router":
        name = _old_block(tensor.name, kind).replace("gate.moe_statics", "moe_statics")
        if kind == "phimoe":
            name = name.replace(".router.", ".gate.")
        linear = linear_router and name.endswith((".gate.weight", ".router.weight"))
        yield replace(tensor, name=name, kind="linear" if linear else tensor.kind)
    else:
        yield tensor


def _old_block(name: str, kind: str) -> str:
    return name.replace(".mlp.", ".block_sparse_moe.") if kind in _BLOCK_SPARSE else name


def _module_list(fused: TensorSpec, names: tuple[str, str, str]) -> Iterator[TensorSpec]:
    """One expert's weights from [E, 2I, H] or [E, H, I]."""
    prefix, _, leaf = fused.name.rpartition(".")
    experts, size_out, size_in = fused.shape
    gate, up, down = names
    for expert in range(experts):
        for name in (gate, up) if leaf == "gate_up_proj" else (down,):
            shape = (size_out // 2 if leaf == "gate_up_proj" else size_out, size_in)
            yield replace(fused, name=f"{prefix}.{expert}.{name}.weight", shape=shape, kind="linear")
