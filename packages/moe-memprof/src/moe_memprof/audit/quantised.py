"""Which weights a loader really quantises, and the bytes that stay in memory.

Sources: transformers' `replace_with_bnb_linear`, `get_keys_to_not_convert`, `replace_with_mxfp4_linear` and `replace_with_fp8_linear`;
bitsandbytes' `Params4bit` and `Int8Params`; peft's `prepare_model_for_kbit_training`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal

from moe_memprof.architectures.base import TensorSpec
from moe_memprof.audit.layout import Layout, Module
from moe_memprof.audit.versions import Stack
from moe_memprof.errors import MemprofError
from moe_memprof.spec import BYTES

BLOCK, NESTED, F32 = 64, 256, 4
CODES = 16 * F32
"""bitsandbytes keeps the 16 values of the 4-bit type beside every weight,"""
NESTED_CODES = 256 * F32
"""and with double quantisation the 256 of the 8-bit type as well."""
EXPECTED_ROLES = ("attention", "routed expert", "shared expert", "dense")
"""What one expects to be quantised: every matrix except embeddings, head and router."""
# nn.Linear that transformers 5 keeps in float32, and so out of the quantisation.
_KEPT_LINEAR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("axk2", "deepseek_v32", "glm_moe_dsa", "mistral_large4", "mistral_large4_text"), ("indexer.weights_proj",)
    ),
    "deepseek_v4": (
        "self_attn.compressor.gate_proj",
        "self_attn.compressor.kv_proj",
        "self_attn.compressor.indexer.gate_proj",
        "self_attn.compressor.indexer.kv_proj",
        "self_attn.compressor.indexer.scorer.weights_proj",
    ),
}
# What bitsandbytes leaves out by itself beside the head: the last parameter where it is not the last here, and tied layers.
_OWN_SKIPS: dict[str, tuple[str, ...]] = {
    "gemma4": ("model.embed_audio.embedding_projection",),
    "diffusion_gemma": ("model.encoder.language_model", "self_conditioning.down_proj"),
}

Method = Literal["none", "4bit", "8bit", "mxfp4", "fp8", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How `from_pretrained` is called."""

    bits: Literal[4, 8] | None = None
    """load_in_4bit or load_in_8bit of a BitsAndBytesConfig."""
    double_quant: bool = False
    skip_modules: tuple[str, ...] | None = None
    """llm_int8_skip_modules; None is bitsandbytes' own choice, which leaves the head out."""
    dtype: str | None = None
    """`dtype=` of from_pretrained; None where it is not given."""
    dequantize: bool = False
    """Mxfp4Config(dequantize=True) or FineGrainedFP8Config(dequantize=True) for a checkpoint that comes quantised."""

    def __post_init__(self) -> None:
        """Check what cannot be.

        Raises:
            MemprofError: for an unknown dtype, and options of a quantisation that is off.
        """
        if self.dtype is not None and self.dtype not in BYTES:
            raise MemprofError(f"--dtype {self.dtype!r}: not one of {', '.join(BYTES)}")
        if self.double_quant and self.bits != 4:
            raise MemprofError("--double-quant: quantises the scales of 4-bit blocks; give --load-in 4bit as well")


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """What the checkpoint and the call come to together."""

    method: Method
    dtype: str
    """Of what is not quantised."""
    config: Mapping[str, Any]
    """quantization_config of config.json; empty where there is none."""
    refused: str | None = None
    """Why from_pretrained raises."""
    double_quant: bool = False
    skip_modules: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One weight as it stays in memory."""

    tensor: TensorSpec
    form: str
    """nf4/fp4, int8, mxfp4, fp8, or the dtype of one that is not quantised."""
    quantised: bool
    bytes: int
    expected: int
    """Bytes that one expects of this way of loading."""
    prepared: int
    """Bytes after peft's prepare_model_for_kbit_training, which casts 16-bit floats to float32, save packed 4-bit weights."""


def quantisation_of(config: Mapping[str, Any], loading: Loading, stack: Stack) -> Quantisation:
    """What from_pretrained makes of config.json and the arguments."""
    found = config.get("quantization_config")
    if found is None and isinstance(config.get("text_config"), Mapping):
        found = config["text_config"].get("quantization_config")
    stored: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    method: Method = "none" if loading.bits is None else ("4bit" if loading.bits == 4 else "8bit")
    refused, double, skip = None, loading.double_quant, loading.skip_modules
    if stored:
        own = str(stored.get("quant_method", "bitsandbytes"))
        if own.startswith("bitsandbytes") or stored.get("load_in_4bit") or stored.get("load_in_8bit"):
            method = "8bit" if stored.get("load_in_8bit") else "4bit"
            double = bool(stored.get("bnb_4bit_use_double_quant", False))
            skip = tuple(stored["llm_int8_skip_modules"]) if stored.get("llm_int8_skip_modules") else None
        else:
            if loading.bits is not None:
                refused = f"the checkpoint comes quantised ({own}), and from_pretrained takes no BitsAndBytesConfig beside that"
            method = own if own in ("mxfp4", "fp8") else "unknown"  # type: ignore[assignment]
            if loading.dequantize and method in ("mxfp4", "fp8"):
                method = "none"
    dtype = _dtype(config, loading, stack, method)
    return Quantisation(
        method=method, dtype=dtype, config=stored, refused=refused, double_quant=double, skip_modules=skip
    )


def stored_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that config.json names; bfloat16 where it names none or one that is no plain float."""
    text = config.get("text_config")
    for place in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if place.get(key) is not None:
                name = str(place[key]).removeprefix("torch.")
                return name if name in BYTES else "bfloat16"
    return "bfloat16"


def _dtype(config: Mapping[str, Any], loading: Loading, stack: Stack, method: Method) -> str:
    if loading.dtype is not None:
        return loading.dtype
    if stack.fused_experts or method == "mxfp4":
        return stored_dtype(config)
    # transformers 4 loaded in float32 unless told otherwise, and in float16 under bitsandbytes.
    return "float16" if method in ("4bit", "8bit") else "float32"


def packed_bytes(
    shape: tuple[int, ...], method: Method, *, double_quant: bool = False, config: Mapping[str, Any] | None = None
) -> int:
    """Bytes of a quantised weight with its scales.

    4 bits: two elements a byte, a scale per 64 elements in float32, or in 8 bits with a float32 scale per 256 of them and a float32 offset,
    and the code tables (arXiv:2305.14314 section 3; bitsandbytes' QuantState). 8 bits: a byte, and a float32 scale per row
    (arXiv:2208.07339). MXFP4: 4 bits, and an 8-bit scale per 32 elements (OCP Microscaling v1.0). FP8: a byte, and a float32 scale per
    block of `weight_block_size`.
    """
    n = prod(shape)
    if method == "8bit":
        return n + n // shape[-1] * F32
    if method == "mxfp4":
        return ceil(n / 2) + ceil(n / 32)
    if method == "fp8":
        rows, columns = (config or {}).get("weight_block_size") or shape[-2:]
        return n + prod(shape[:-2]) * ceil(shape[-2] / rows) * ceil(shape[-1] / columns) * F32
    scales = ceil(n / BLOCK)
    if double_quant:
        return ceil(n / 2) + scales + ceil(scales / NESTED) * F32 + F32 + CODES + NESTED_CODES
    return ceil(n / 2) + scales * F32 + CODES


def held_weights(layout: Layout, q: Quantisation, stack: Stack, *, plain: str) -> list[Held]:
    """Every weight as it stays in memory; `plain` is the dtype one expects of what is not quantised."""
    quantised = _quantised_names(layout, q, stack)
    found = []
    for tensor in layout.tensors:
        elements, width = tensor.elements, BYTES[tensor.dtype or q.dtype]
        usual = elements * BYTES[tensor.dtype or plain]
        packed = tensor.name in quantised
        now = (
            packed_bytes(tensor.shape, q.method, double_quant=q.double_quant, config=q.config)
            if packed
            else elements * width
        )
        expected = usual
        if q.method in ("4bit", "8bit") and _one_expects(tensor):
            expected = packed_bytes(tensor.shape, q.method, double_quant=q.double_quant)
        elif packed:
            expected = now
        form = {"4bit": "4 bit", "8bit": "int8"}.get(q.method, q.method) if packed else (tensor.dtype or q.dtype)
        prepared = now if packed or q.method == "none" else elements * F32
        found.append(Held(tensor=tensor, form=form, quantised=packed, bytes=now, expected=expected, prepared=prepared))
    return found


def _one_expects(tensor: TensorSpec) -> bool:
    matrix = len(tensor.shape) >= 2 and tensor.kind in ("linear", "parameter") and not tensor.name.endswith("bias")
    return matrix and tensor.role in EXPECTED_ROLES


def _quantised_names(layout: Layout, q: Quantisation, stack: Stack) -> set[str]:
    if q.method == "mxfp4":
        ending = (".experts.gate_up_proj", ".experts.down_proj")
        skip = tuple(q.config.get("modules_to_not_convert") or ())
        return {
            t.name for t in layout.tensors if t.name.endswith(ending) and _converts(t.name.rpartition(".")[0], skip)
        }
    if q.method not in ("4bit", "8bit", "fp8"):
        return set()
    given = q.skip_modules if q.method != "fp8" else q.config.get("modules_to_not_convert")
    skip = _own_skips(layout) if given is None else tuple(given)
    skip += _KEPT_LINEAR.get(layout.model_type, ()) if stack.fused_experts else ()
    names = set()
    for module in layout.modules.values():
        if q.method == "fp8" and module.name.endswith(".experts") and _converts(module.name, skip):
            names |= {t.name for t in module.tensors if not t.name.endswith("bias")}
        if module.kind == "linear" and _replaced(module, skip, stack):
            names.add(f"{module.name}.weight")
    return names


def _own_skips(layout: Layout) -> tuple[str, ...]:
    """The head, what is tied to it, and the module that holds the last parameter."""
    last = layout.tensors[-1].name.removesuffix(".weight")
    return ("lm_head", last, *_OWN_SKIPS.get(layout.model_type, ()))


def _replaced(module: Module, skip: tuple[str, ...], stack: Stack) -> bool:
    if stack.fused_experts:
        return module.exact and _converts(module.name, skip)
    if module.name.rpartition(".")[2] in skip:
        return False
    return not any(f"{key}." in module.name or key == module.name for key in skip)


def _converts(name: str, skip: tuple[str, ...]) -> bool:
    """In transformers 5 a key is left out as a prefix or regex up to a dot, or as a suffix."""
    edge = r"(?:(?<=\.)|(?=\.|$))"
    return not any(re.match(f"(?:{key}){edge}", name) or name.endswith(key) for key in skip)
