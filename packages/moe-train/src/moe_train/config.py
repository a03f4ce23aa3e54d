"""The run's configuration: every key with its meaning, all errors at once.

A configuration comes from three places, the later over the earlier: the defaults below, a YAML file, and `key=value`
arguments. Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moe_train.errors import TrainError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True)


class DataConfig(_Section):
    """What is trained on."""

    path: str | None = None
    """A JSONL file of prompt/completion, question/answer, instruction/output or chat records. Without it, `tasks`."""
    tasks: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Without a `path`: families of `moe_bench.tasks` to generate problems from, and how many of each, `{change: 1000}`."""
    held_out: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the records kept out of training, chosen by content hash, to measure the loss on."""
    held_out_max: int = Field(default=200, ge=2)
    """At most so many held-out records are evaluated."""
    max_length: int = Field(default=1024, ge=8)
    """Longest sample in tokens, prompt and completion together."""
    too_long: Literal["error", "drop"] = "error"
    """What to do with a longer sample: stop with its line, or leave it out and count it."""
    system: str | None = None
    """A system message put before every prompt that has none."""


class LoraSection(_Section):
    """What is adapted."""

    rank: int = Field(default=8, ge=1)
    """Rank of A and B, on linear layers and on each expert."""
    ranks: dict[str, int] = Field(default_factory=dict)
    """Ranks of single layers by the end of their name, `{q_proj: 32, experts.down_proj: 4}`; alpha is the same for all."""
    alpha: float = Field(default=16, gt=0)
    """The update is scaled by alpha / rank."""
    attention: bool = True
    """Adapt the projections of every attention layer."""
    experts: bool = True
    """Adapt the weights of every routed expert."""
    shared_experts: bool = False
    """Adapt the linear layers of shared experts, where PEFT does not take them for routed ones."""
    chosen_experts: str | None = None
    """A JSON or YAML file with the experts to adapt, by layer: `{model.layers.0.mlp: [0, 5]}`, or `{0: [0, 5]}` by the number of the MoE
    layer. Without it, all of them."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's input that is left out while it trains."""
    rslora: bool = False
    """Scale the update by alpha / sqrt(rank) instead of alpha / rank (arXiv:2312.03732)."""
    expert_products: Literal["auto", "grouped", "peft"] = "auto"
    """`grouped` multiplies the adapters of experts beside their weights, `peft` builds W + ΔW of every expert. `auto`: grouped where
    transformers dispatches the experts."""


class QuantisationSection(_Section):
    """In how many bits the frozen base is held. It is quantised while it is loaded, experts included."""

    weights: Literal["none", "nf4", "int8"] = "none"
    """Of fused experts and linear layers; routers, embeddings and the head stay as they are. Needs `pip install 'moe-train[quantise]'`."""
    double: bool = False
    """Quantise the scales of 4-bit blocks too."""


class TrainingConfig(_Section):
    """How it is trained."""

    method: Literal["lora", "full"] = "lora"
    """`lora` trains adapters on a frozen base; `full` trains every weight, routers included."""
    steps: int = Field(default=100, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=16, ge=1)
    """Samples in one optimizer step. It is yours: memory never changes it."""
    micro_batch_tokens: int = Field(default=4096, ge=8)
    """Most padded tokens in one forward pass. It changes speed and memory, never what is learned."""
    loss: Literal["auto", "chunked", "whole", "liger"] = "auto"
    """`chunked` holds the logits of 256 completion tokens at a time, `whole` those of every position, `liger` leaves it to liger-kernel on
    a CUDA GPU (`pip install 'moe-train[kernels]'`). `auto`: chunked where the model's head can be run by itself, which is tried when it
    is loaded."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """torch's AdamW, or bitsandbytes' with its states in 8 bits, `paged` with them in memory that a GPU may give up for a while."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; it then falls along a cosine to a tenth."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time. Routers choose the same experts again."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Steps between checkpoints; a killed run loses at most so many."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay on disk."""
    deepspeed: str | None = None
    """A DeepSpeed JSON file (ZeRO 1 or 2, offloading), on one device; needs `pip install 'moe-train[deepspeed]'`."""
    log_every: int = Field(default=1, ge=1)
    """Steps between lines of metrics.jsonl."""


class RoutingConfig(_Section):
    """The routing losses, per layer, on the experts that were executed."""

    load_balancing: float = Field(default=0.01, ge=0)
    """Coefficient of the load-balancing loss (minimum 1 per layer)."""
    z_loss: float = Field(default=1e-4, ge=0)
    """Coefficient of the router z-loss."""
    train: bool = False
    """With LoRA, train the weights of the routers as well; they are kept with the adapter. Frozen, they go on deciding as in the base."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the routers. Without it, `training.learning_rate`."""


class EvaluationConfig(_Section):
    """How it is judged. Without `tasks` and `path`, by the loss on held-out records alone."""

    tasks: tuple[str, ...] = ()
    """Families the fine-tune is about: test items, answered by greedy generation before and after."""
    retained_tasks: tuple[str, ...] = ()
    """Families the base already has: did they suffer?"""
    items_per_task: int = Field(default=50, ge=1)
    """Test items of each family."""
    path: str | None = None
    """A JSONL file of test items with `prompt` and `target`, beside or instead of `tasks`."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer in tokens."""
    batch_size: int = Field(default=64, ge=1)
    """Items generated at a time."""


class RunConfig(_Section):
    """A whole fine-tune."""

    name: str | None = None
    """Name of the run; its folder is `output`/`name`. Without it, the model's name and the time."""
    output: str = "runs"
    """Folder that holds the runs."""
    model: str = "embedded"
    """`embedded` (the small model inside moe-train), a local folder, or a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base weights. `auto`: float32 on a CPU, bfloat16 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs. `auto`: the GPU if there is one."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch on a CPU. Without it, torch's choice: one to a core."""
    seed: int = 0
    """Of data order, adapters and generation."""
    allow_standard_training: bool = False
    """Train a model in which no MoE layer is found as the dense model it is, instead of refusing it."""
    data: DataConfig = DataConfig()
    """What is trained on."""
    lora: LoraSection = LoraSection()
    """What is adapted."""
    quantisation: QuantisationSection = QuantisationSection()
    """In how many bits the frozen base is held."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""
    routing: RoutingConfig = RoutingConfig()
    """The routing losses."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How it is judged."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.data.path is None and not self.data.tasks:
            raise ValueError("data: nothing to train on; give data.path=FILE.jsonl or data.tasks={change: 1000}")
        if self.data.path is not None and self.data.tasks:
            raise ValueError("data: path and tasks are both given; keep one")
        if self.quantisation.weights != "none" and self.training.method == "full":
            raise ValueError("quantisation: quantised weights cannot be trained; set training.method=lora")
        if self.quantisation.weights != "none" and self.lora.expert_products == "peft":
            raise ValueError("lora.expert_products: PEFT cannot adapt quantised experts; leave it at auto")
        if self.quantisation.double and self.quantisation.weights != "nf4":
            raise ValueError("quantisation.double: goes with quantisation.weights=nf4")
        if self.training.optimizer != "adamw" and self.training.deepspeed is not None:
            raise ValueError("training.optimizer: DeepSpeed divides the states of adamw alone; leave one of them out")
        if self.lora.chosen_experts is not None and (not self.lora.experts or self.lora.expert_products == "peft"):
            raise ValueError("lora.chosen_experts: needs lora.experts=true and lora.expert_products other than peft")
        if self.routing.train and self.training.method == "full":
            raise ValueError("routing.train: training.method=full trains the routers as everything else; leave it out")
        if self.routing.train and self.training.deepspeed is not None:
            raise ValueError("routing.train: does not go with training.deepspeed; leave one of them out")
        if self.routing.learning_rate is not None and not self.routing.train:
            raise ValueError("routing.learning_rate: the routers are frozen; set routing.train=true, or leave it out")
        if self.training.method == "lora" and not (
            self.lora.attention or self.lora.experts or self.lora.shared_experts
        ):
            raise ValueError("lora: attention and experts are both off, so nothing would train; switch one on")
        return self


def load_config(
    path: Path | None = None, overrides: Iterable[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """The configuration from a YAML file and `key=value` arguments (`training.steps=20`), over `base`.

    Raises:
        TrainError: naming every mistake with its key, the rule and what was given.
    """
    values: dict[str, Any] = _merged({}, base or {})
    source = "the arguments"
    if path is not None:
        source = str(path)
        values = _merged(values, _read_yaml(path))
    for argument in overrides:
        key, separator, text = argument.partition("=")
        if not separator or not key:
            raise TrainError(f"argument {argument!r}: expected key=value, as in training.steps=20")
        values = _merged(values, _nested(key.split("."), _scalar(argument, text)))
    return validated(values, source=source)


def validated(values: Mapping[str, Any], *, source: str) -> RunConfig:
    """The configuration these plain values make; all their errors in one `TrainError`."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [_explain(dict(e)) for e in error.errors()]
        raise TrainError(f"config ({source}): " + "; ".join(problems)) from None


def _read_yaml(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise TrainError(f"config {path}: no such file; write one, or give `moe-train run` key=value arguments")
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise TrainError(f"config {path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise TrainError(f"config {path}: expected `key: value` lines, found a {type(loaded).__name__}")
    return loaded


def _scalar(argument: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise TrainError(f"argument {argument!r}: the value is not valid YAML; quote it") from None


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = _nearest(location)
        return f"{key}: unknown key" + (f"; did you mean {near}?" if near else "")
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}, got {error['input']!r}"


def _nearest(location: list[str]) -> str | None:
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        field = section.model_fields[part].annotation
        assert isinstance(field, type)
        assert issubclass(field, BaseModel)
        section = field
    close = difflib.get_close_matches(location[-1], section.model_fields, n=1, cutoff=0.5)
    if close:
        return ".".join([*location[:-1], close[0]])
    # A key put in the wrong section: learning_rate instead of training.learning_rate.
    everywhere = dict(_keys(RunConfig))
    return next((key for key in everywhere if key.rpartition(".")[2] == location[-1]), None)


def _keys(section: type[BaseModel], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Every key of the configuration, dotted, with its meaning."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def config_keys() -> dict[str, str]:
    """Every key of the configuration, dotted (`training.steps`), with its meaning in one line."""
    return dict(_keys(RunConfig))


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def quickstart_values() -> dict[str, Any]:
    """The plain values of `configs/quickstart.yaml`, which ships inside the package."""
    text = (files("moe_train") / "assets" / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values
