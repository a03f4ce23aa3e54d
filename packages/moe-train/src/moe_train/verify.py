"""The trainability proof: before step 1, one real batch goes forward and backward, and what trains is counted.

LoRA starts with B = 0, so at step 0 the gradient of A is zero by construction and that of B is not: B carries the proof.
PEFT lays the B of a fused expert weight out as [out, r · E] with column k · E + e for rank k of expert e.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from moe_train.adapters import ATTENTION, SHARED
from moe_train.data import IGNORED, Sample, collate, micro_batches
from moe_train.errors import TrainError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moe_router import MoELayer
    from moe_train.adapters import Targets

SCHEMA = "moe-train/proof@1"
COMPONENTS = ("attention", "experts", "router", "shared experts", "embeddings", "norms", "other")
_WRAPPING = re.compile(r"base_model\.model\.|\.base_layer|\.modules_to_save\.\w+|\.original_module")
_LORA = re.compile(r"\.lora_(A|B)\.\w+\.weight$")


@dataclass(frozen=True, kw_only=True)
class ComponentProof:
    """What happens to one component of the model."""

    component: str
    parameters: int
    """Of the base model."""
    tensors: int
    """Base tensors of the component."""
    quantised: int
    """Of them, how many are held in 4 or 8 bits."""
    bytes: int
    """What they take, scales included."""
    matched: int
    """Of them, how many the configuration asked to train or adapt."""
    adapted: int
    """Of those, how many really carry an adapter or train themselves."""
    trainable_parameters: int
    gradient_nonzero: int
    """Of the adapted, how many received a gradient that is not zero."""

    @property
    def frozen(self) -> bool:
        """Whether nothing of it trains."""
        return self.trainable_parameters == 0


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What trains, by component, shown on a real batch."""

    components: tuple[ComponentProof, ...]
    experts_reached: int | None
    """Pairs of layer and expert that a token with a loss was routed to; None for a dense model or frozen experts."""
    experts_with_gradient: int | None
    """Of those, how many received a gradient that is not zero in every adapted weight."""
    problems: tuple[str, ...]
    """What does not agree with the configuration; empty when it holds."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-train/proof@1."""
        return {"schema": SCHEMA, "holds": not self.problems, **asdict(self)}

    def require(self) -> None:
        """Stop the run when the proof fails.

        Raises:
            TrainError: naming every problem.
        """
        if self.problems:
            raise TrainError("trainability proof: " + "; ".join(self.problems))


def base_name(name: str) -> str:
    """A parameter's name in the base model, whatever PEFT wrapped around it."""
    return _WRAPPING.sub("", name)


def component_of(name: str, parameter: nn.Parameter, layers: list[MoELayer]) -> str:
    """The component a base parameter belongs to, by the model's structure and, within it, by name."""
    for layer in layers:
        if layer.router_name and name.startswith(base_name(layer.router_name) + "."):
            return "router"
        if layer.experts_name and name.startswith(base_name(layer.experts_name) + "."):
            return "experts"
    if SHARED.search(name):
        return "shared experts"
    if ATTENTION.search(name) and parameter.ndim > 1:
        return "attention"
    if re.search(r"embed|lm_head|wte|wpe", name):
        return "embeddings"
    return "norms" if parameter.ndim <= 1 else "other"


def prove(
    model: nn.Module,
    layers: list[MoELayer],
    targets: Targets | None,
    *,
    routed_LE: Any | None,
    quantised: bool = False,
) -> Proof:
    """Read the proof off a model whose gradients hold one real batch's backward pass.

    Args:
        model: after `backward()`, gradients not yet cleared.
        layers: its MoE layers as moe-router found them; empty for a dense model.
        targets: what was to be adapted; None when every weight trains.
        routed_LE: tokens with a loss that were sent to each expert, [layers, experts]; None for a dense model.
        quantised: whether the base was to be quantised.
    """
    adapters = _adapters(model)
    tally: dict[str, dict[str, int]] = {
        c: dict.fromkeys((f.name for f in fields(ComponentProof) if f.name != "component"), 0) for c in COMPONENTS
    }
    problems = []
    buffers = dict(model.named_buffers())
    asked = None if targets is None else _asked_for(model, targets)
    unseen = set(asked or ())
    for name, parameter in model.named_parameters():
        if _LORA.search(name) or ".original_module." in name:  # beside it stands the copy that trains
            continue
        base = base_name(name)
        unseen.discard(base)
        row = tally[component_of(base, parameter, layers)]
        held = held_as(name, parameter, buffers)
        row["parameters"] += held.elements
        row["bytes"] += held.bytes
        row["quantised"] += held.quantised
        row["tensors"] += 1
        if held.quantised != quantised and base in (asked or ()) and not parameter.requires_grad:
            problems.append(f"{base} is {'not ' if quantised else ''}quantised, against the configuration")
        wanted = asked is None or base in asked
        row["matched"] += wanted
        if parameter.requires_grad:
            row["adapted"] += 1
            row["trainable_parameters"] += parameter.numel()
            row["gradient_nonzero"] += parameter.grad is not None and bool(parameter.grad.any())
            if not wanted:
                problems.append(f"{base} trains although the configuration freezes it")
        elif base in adapters:
            a, b = adapters.pop(base)
            row["adapted"] += 1
            row["trainable_parameters"] += a.numel() + b.numel()
            got_gradient = b.grad is not None and bool(b.grad.any())
            row["gradient_nonzero"] += got_gradient
            if not wanted:
                problems.append(f"{base} is adapted although the configuration freezes it")
            elif not got_gradient:
                problems.append(f"{base}: its adapter received no gradient on a real batch")
        elif wanted:
            problems.append(f"{base} was to train and does not")
    problems += [f"{name} was to train and is no weight of the model" for name in sorted(unseen)]
    reached, with_gradient = None, None
    if layers and routed_LE is not None and (targets is None or targets.experts):
        if targets is not None and targets.chosen is not None:
            routed_LE = _of_chosen(layers, targets.chosen, routed_LE)
        reached, with_gradient = _expert_gradients(model, layers, routed_LE)
        if with_gradient < reached:
            problems.append(
                f"{reached - with_gradient} of {reached} experts that received tokens with a loss received no gradient"
            )
    components = tuple(ComponentProof(component=c, **tally[c]) for c in COMPONENTS if tally[c]["tensors"])
    return Proof(
        components=components, experts_reached=reached, experts_with_gradient=with_gradient, problems=tuple(problems)
    )


def _asked_for(model: nn.Module, targets: Targets) -> set[str]:
    """The base's weights that were to be adapted or trained, by name."""
    found = {*(f"{name}.weight" for name in (*targets.attention, *targets.shared)), *targets.experts}
    for path, module in model.named_modules():
        if base_name(path) in targets.routers and ".original_module" not in path and ".modules_to_save" not in path:
            names = (name for name, _ in module.named_parameters() if "original_module." not in name)
            found |= {base_name(f"{path}.{name}") for name in names}
    return found


@dataclass(frozen=True)
class Held:
    """How a weight is held."""

    elements: int
    """Numbers that it stands for."""
    bytes: int
    quantised: bool


def held_as(name: str, parameter: nn.Parameter, buffers: Mapping[str, Tensor]) -> Held:
    """How a parameter is held: dense, by bitsandbytes, or as a stack of experts with its scales beside it."""
    size = parameter.numel() * parameter.element_size()
    if (state := getattr(parameter, "quant_state", None)) is not None:  # bitsandbytes, 4 bits
        scales = state.absmax.numel() * state.absmax.element_size()
        scales += state.state2.absmax.numel() * 4 if state.nested else 0
        return Held(state.shape.numel(), size + scales, True)
    beside = [buffers[name + suffix] for suffix in ("_scales", "_nested") if name + suffix in buffers]
    if beside:
        packed = 2 if parameter.dtype.itemsize == 1 and not parameter.dtype.is_signed else 1
        return Held(parameter.numel() * packed, size + sum(t.numel() * t.element_size() for t in beside), True)
    if not parameter.is_floating_point():  # bitsandbytes, 8 bits: its layer keeps an fp32 scale for every row
        return Held(parameter.numel(), size + parameter.shape[0] * 4, True)
    return Held(parameter.numel(), size, False)


def routed_with_loss(model: nn.Module, batch: Sequence[Sample], *, pad_id: int, micro_batch_tokens: int) -> Any:
    """Tokens that carry a loss, by the experts they were routed to: [layers, experts].

    Only for these a gradient is due: in the last layer a token of the prompt, or the last of a row, changes nothing that is
    predicted, and an expert that saw no other rightly has none.
    """
    import torch

    from moe_router import RoutingRecorder

    device = next(model.parameters()).device
    with RoutingRecorder(model) as recorder, torch.no_grad():
        for group in micro_batches(batch, max_tokens=micro_batch_tokens):
            part = collate(group, pad_id=pad_id)
            predicts_BS = torch.zeros_like(part.labels_BS, dtype=torch.bool)
            predicts_BS[:, :-1] = part.labels_BS[:, 1:] != IGNORED
            with recorder.only(predicts_BS):
                model(
                    input_ids=part.input_ids_BS.to(device),
                    attention_mask=part.attention_mask_BS.to(device),
                    use_cache=False,
                )
    return recorder.trace().counts_GLE.sum(0)


def _adapters(model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Base parameter name → (A, B) of its LoRA."""
    found = {}
    for name, module in model.named_modules():
        lora_a, lora_b = getattr(module, "lora_A", None), getattr(module, "lora_B", None)
        if not lora_a or not lora_b:
            continue
        adapter = next(iter(lora_a))
        parameter = getattr(module, "parameter_name", "weight")
        found[f"{base_name(name)}.{parameter}"] = (lora_a[adapter].weight, lora_b[adapter].weight)
    return found


def _of_chosen(layers: list[MoELayer], chosen: Mapping[str, tuple[int, ...]], routed_LE: Any) -> list[Any]:
    """The counts of the experts that are adapted, and nothing for the others."""
    import torch

    found = []
    for layer, routed_E in zip(layers, routed_LE, strict=True):
        mask_E = torch.zeros(layer.num_experts, dtype=torch.bool)
        mask_E[list(chosen.get(str(layer.experts_name), ()))] = True
        found.append(torch.as_tensor(routed_E) * mask_E)
    return found


def _expert_gradients(model: nn.Module, layers: list[MoELayer], routed_LE: Any) -> tuple[int, int]:
    import torch

    adapters = _adapters(model)
    parameters = {base_name(n): p for n, p in model.named_parameters() if not _LORA.search(n)}
    reached = with_gradient = 0
    for layer, routed_E in zip(layers, routed_LE, strict=True):
        got_E = torch.ones(layer.num_experts, dtype=torch.bool)
        prefix = base_name(str(layer.experts_name)) + "."
        for name in (n for n in parameters if n.startswith(prefix)):
            if name in adapters:
                grad = adapters[name][1].grad
                if grad is None:
                    got_E &= False
                else:  # [out, r · E], rank-major
                    got_E &= grad.reshape(grad.shape[0], -1, layer.num_experts).abs().sum((0, 1)).cpu() > 0
            elif parameters[name].requires_grad:
                grad = parameters[name].grad
                got_E &= grad.reshape(layer.num_experts, -1).abs().sum(1).cpu() > 0 if grad is not None else False
        reached_E = torch.as_tensor(routed_E) > 0
        reached += int(reached_E.sum())
        with_gradient += int((reached_E & got_E).sum())
    return reached, with_gradient
