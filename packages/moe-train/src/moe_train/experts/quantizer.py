"""Quantise fused experts and linears while a checkpoint is read, through transformers' own extension points.

    AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16", quantization_config=MoeQuantizationConfig(bits=4))

Experts that a checkpoint stores one by one are quantised one by one as they are read, so that neither a fused stack nor the model is
ever there in 16 bits. Linears are bitsandbytes' own; routers, embeddings and the head are left as they are. What was quantised can be
saved and read again. Needs transformers 5.17, where quantizers may replace the conversions of a checkpoint's tensors.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import Concatenate, ConversionOps, MergeModulelist, Transpose, WeightConverter
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer

from moe_train.errors import TrainError
from moe_train.experts.forward import PARAMETERS, is_dispatched, use_grouped_experts
from moe_train.experts.stacks import BLOCK, NESTED, nest_scales, quantise_int8, quantise_nf4

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

_METHOD = {4: "moe_train_4bit", 8: "moe_train_8bit"}


class MoeQuantizationConfig(BitsAndBytesConfig):  # type: ignore[misc]  # transformers is untyped here
    """How the weights are held: experts in stacks of ours, linears in bitsandbytes'."""

    def __init__(
        self,
        *,
        bits: int = 4,
        double_quant: bool = False,
        compute_dtype: str = "bfloat16",
        skip_modules: list[str] | None = None,
        from_mxfp4: bool = False,
        **_: Any,
    ) -> None:
        """Choose.

        Args:
            bits: 4 (NF4, blocks of 64) or 8 (integers, a scale for every row).
            double_quant: quantise the scales of 4-bit blocks too.
            compute_dtype: in which 4-bit linears are multiplied; experts are in the dtype of what they are given.
            skip_modules: names of modules that are left as they are, besides routers and the head.
            from_mxfp4: the checkpoint holds its experts in MXFP4 (gpt-oss), and they are converted, a stack at a time. Its config
                is to be given without the `quantization_config` that says so.

        Raises:
            TrainError: for other bits.
        """
        if bits not in _METHOD:
            raise TrainError(f"quantisation: {bits} bits; there are 4 and 8")
        super().__init__(
            load_in_4bit=bits == 4, load_in_8bit=bits == 8, llm_int8_skip_modules=skip_modules, bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quant, bnb_4bit_compute_dtype=compute_dtype,
        )  # fmt: skip
        self.bits, self.double_quant, self.compute_dtype, self.skip_modules = (
            bits,
            double_quant,
            compute_dtype,
            skip_modules,
        )
        self.quant_method = _METHOD[bits]
        self.from_mxfp4 = from_mxfp4

    def to_dict(self) -> dict[str, Any]:
        """What config.json says. The keys of bitsandbytes are left out: by them transformers would take it for its own."""
        names = ("quant_method", "bits", "double_quant", "compute_dtype", "skip_modules")
        return {name: getattr(self, name) for name in names}

    def to_diff_dict(self) -> dict[str, Any]:
        """As `to_dict`."""
        return self.to_dict()


def quantised_stacks(module: nn.Module) -> list[str]:
    """The stacks of an experts module, by name."""
    return [name for name in PARAMETERS if isinstance(getattr(module, name, None), nn.Parameter)]


def quantise_stack(weight: Tensor, *, bits: int, double_quant: bool) -> dict[str, Tensor]:
    """The tensors that stand for a stack [E, rows, columns], by what is added to its name."""
    if bits == 8:
        values, scales = quantise_int8(weight)
        return {"": values, "_scales": scales}
    packed, scales = quantise_nf4(weight)
    if not double_quant:
        return {"": packed, "_scales": scales}
    codes, nested = nest_scales(scales)
    return {"": packed, "_scales": codes, "_nested": nested}


def _empty_stack(shape: torch.Size, *, bits: int, double_quant: bool) -> dict[str, Tensor]:
    """The same without numbers."""
    experts, rows, columns = shape
    blocks = rows * columns // BLOCK
    with torch.device("meta"):
        if bits == 8:
            return {
                "": torch.empty(shape, dtype=torch.int8),
                "_scales": torch.empty(experts, rows, dtype=torch.float32),
            }
        found = {
            "": torch.empty(experts, rows, columns // 2, dtype=torch.uint8),
            "_scales": torch.empty(experts, blocks, dtype=torch.float32),
        }
        if double_quant:
            found["_scales"] = torch.empty(experts, blocks, dtype=torch.uint8)
            found["_nested"] = torch.empty(experts, 1 + -(-blocks // NESTED), dtype=torch.float32)
    return found


class _Quantise(ConversionOps):  # type: ignore[misc]
    """Stacks of experts in our form, everything else by bitsandbytes' operation."""

    def __init__(self, quantizer: Any, linear: ConversionOps) -> None:
        self.quantizer, self.linear = quantizer, linear

    def convert(
        self, input_dict: dict[str, Any], *, full_layer_name: str, model: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in input_dict.items():
            tensor = value[0] if isinstance(value, list) else value
            if self.quantizer.is_stack(model, name):
                parts = quantise_stack(
                    tensor, bits=self.quantizer.config.bits, double_quant=self.quantizer.config.double_quant
                )
                found |= {name + suffix: part for suffix, part in parts.items()}
            else:
                found |= self.linear.convert({name: value}, full_layer_name=full_layer_name, model=model, **kwargs)
        return found


class _FromMxfp4(ConversionOps):  # type: ignore[misc]
    """A stack out of the blocks and scales of MXFP4, by transformers' own arithmetic."""

    def convert(self, input_dict: dict[str, Any], *, full_layer_name: str, **_: Any) -> dict[str, Tensor]:
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        blocks, scales = (
            next(v[0] if isinstance(v, list) else v for k, v in input_dict.items() if k.endswith(ending))
            for ending in ("_blocks", "_scales")
        )
        return {full_layer_name: convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)}


class _OneByOne(WeightConverter):  # type: ignore[misc]
    """Makes a stack out of a checkpoint's separate experts, each read, fused and quantised before the next."""

    __slots__ = ()

    def convert(
        self, layer_name: str, model: Any = None, config: Any = None, hf_quantizer: Any = None, loading_info: Any = None
    ) -> Any:
        waiting = self.collected_tensors
        counts = {len(tensors) for tensors in waiting.values()}
        if self.quantization_operation is None or len(counts) != 1 or counts == {1}:
            return super().convert(
                layer_name, model=model, config=config, hf_quantizer=hf_quantizer, loading_info=loading_info
            )
        tensors = {pattern: waiting.pop(pattern) for pattern in list(waiting)}
        stack: dict[str, Tensor] = {}
        for e in range(counts.pop()):
            one: Any = {pattern: [_read(entries[e])] for pattern, entries in tensors.items()}
            for entries in tensors.values():
                entries[e] = None
            for operation in self.operations:
                one = operation.convert(
                    one, source_patterns=self.source_patterns, target_patterns=self.target_patterns, full_layer_name=layer_name,
                    model=model, config=config,
                )  # fmt: skip
            (fused,) = one.values()
            fused = fused[0] if isinstance(fused, list) else fused
            settings = hf_quantizer.config
            parts = quantise_stack(fused, bits=settings.bits, double_quant=settings.double_quant)
            for suffix, part in parts.items():
                if e == 0:
                    total = len(next(iter(tensors.values())))
                    stack[suffix] = part.new_empty((total, *part.shape[1:]))
                stack[suffix][e] = part[0]
        return {layer_name + suffix: part for suffix, part in stack.items()}


def _read(entry: Any) -> Tensor:
    """A tensor that is waited for: a function where reading is sequential, a future where it is not."""
    tensor: Tensor = entry.result() if hasattr(entry, "result") else entry() if callable(entry) else entry
    return tensor


def _acts_on_experts_alone(operation: ConversionOps) -> bool:
    """Whether an operation on a stack is the same done expert by expert."""
    if isinstance(operation, MergeModulelist):
        return bool(operation.dim == 0)
    if isinstance(operation, Concatenate):
        return bool(operation.dim >= 1)
    return isinstance(operation, Transpose) and min(operation.dim0, operation.dim1) >= 1 and not operation.check_dims


class _Experts(HfQuantizer):  # type: ignore[misc]
    """What both quantizers do with experts; beside it stands bitsandbytes' quantizer for linears."""

    @property
    def config(self) -> MoeQuantizationConfig:
        """The settings."""
        found: MoeQuantizationConfig = self.quantization_config
        return found

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse a transformers that cannot be told how to read experts."""
        if (
            "update_weight_conversions" not in vars(HfQuantizer)
            or "model" not in inspect.signature(HfQuantizer.update_weight_conversions).parameters
        ):
            raise TrainError(
                "quantisation while loading needs transformers 5.17 or newer; pip install 'transformers>=5.17'"
            )
        super().validate_environment(*args, **kwargs)

    def is_stack(self, model: Any, name: str) -> bool:
        """Whether a name is that of an experts module's stack."""
        path, _, last = name.rpartition(".")
        return last in PARAMETERS and is_dispatched(model.get_submodule(path))

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        """Linears that bitsandbytes took over, and stacks."""
        return self.is_stack(model, param_name) or super().param_needs_quantization(model, param_name, **kwargs)

    def get_quantize_ops(self) -> ConversionOps:
        """The operation for both."""
        return _Quantise(self, super().get_quantize_ops())

    def get_modules_to_not_convert(self, model: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Bitsandbytes' own exceptions, and the routers."""
        from moe_router import find_moe_layers

        found: list[str] = super().get_modules_to_not_convert(model, *args, **kwargs)
        return [*found, *(layer.router_name for layer in find_moe_layers(model))]

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, **kwargs)
        for module in model.modules():
            if not is_dispatched(module):
                continue
            for name in quantised_stacks(module):
                shape = getattr(module, name).shape
                if self.config.bits == 4 and shape[-1] % BLOCK:
                    raise TrainError(
                        f"NF4: rows of {shape[-1]} elements do not divide into blocks of {BLOCK}; use 8 bits, or no quantisation"
                    )
                for suffix, empty in _empty_stack(
                    shape, bits=self.config.bits, double_quant=self.config.double_quant
                ).items():
                    if suffix:
                        module.register_buffer(name + suffix, empty)
                    else:
                        setattr(module, name, nn.Parameter(empty, requires_grad=False))

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        found: PreTrainedModel = super()._process_model_after_weight_loading(model, **kwargs)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for module in model.modules():
            # On a CPU with bfloat16 instructions bitsandbytes rewrites a 4-bit linear the first time it is evaluated, for a kernel
            # that has no backward pass: training after an evaluation would leave everything below it without a gradient.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        use_grouped_experts(model)
        return found

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Stacks that a checkpoint holds expert by expert are read one by one."""
        updated = []
        if self.config.from_mxfp4:
            updated += [
                WeightConverter([f"{name}_blocks", f"{name}_scales"], [name], operations=[_FromMxfp4()])
                for name in ("gate_up_proj", "down_proj")
            ]
        for conversion in weight_conversions:
            targets = getattr(conversion, "_original_target_patterns", [])
            if (
                isinstance(conversion, WeightConverter) and len(targets) == 1 and targets[0].rpartition(".")[2] in PARAMETERS
                and all(_acts_on_experts_alone(op) for op in conversion.operations)
            ):  # fmt: skip
                replaced = _OneByOne(
                    list(conversion._original_source_patterns),
                    list(targets),
                    list(conversion.operations),
                    conversion.force_cpu,
                )
                replaced.scope_prefix, replaced.base_model_prefix = (
                    conversion.scope_prefix,
                    conversion.base_model_prefix,
                )
                updated.append(replaced)
            else:
                updated.append(conversion)
        found: list[Any] = super().update_weight_conversions(updated, *args, **kwargs)
        return found


class _FourBits(_Experts, Bnb4BitHfQuantizer):  # type: ignore[misc]
    """NF4."""


class _EightBits(_Experts, Bnb8BitHfQuantizer):  # type: ignore[misc]
    """Integers."""


def _register() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    for bits, quantizer in ((4, _FourBits), (8, _EightBits)):
        if _METHOD[bits] not in AUTO_QUANTIZER_MAPPING:
            register_quantization_config(_METHOD[bits])(MoeQuantizationConfig)
            register_quantizer(_METHOD[bits])(quantizer)


_register()


def save_quantised(model: PreTrainedModel, folder: Path) -> None:
    """Write a quantised model so that `from_pretrained(folder)` reads it again, once this module is imported.

    The names are those of transformers 5: quantised stacks cannot be taken apart into a checkpoint's separate experts.
    """
    model.save_pretrained(folder, save_original_format=False)
