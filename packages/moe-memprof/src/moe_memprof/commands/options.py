"""What the commands share: the options that describe a run, the budget, and errors in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from moe_memprof.errors import MemprofError

if TYPE_CHECKING:
    from moe_memprof.spec import RunSpec

GIB = 2**30
_POSITIVE = click.IntRange(min=1)


def mendable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Errors a user can mend become one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except MemprofError as error:
            click.echo(f"error: {error}", err=True)
            raise SystemExit(2) from None

    return wrapped


_RUN = (
    click.option("--method", type=click.Choice(["full", "lora", "qlora"]), default="lora", show_default=True),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="bfloat16", show_default=True),
    click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True),
    click.option("--batch", "sequences", default=1, show_default=True, type=_POSITIVE, help="Sequences in one forward pass."),
    click.option("--seq", "length", default=2048, show_default=True, type=_POSITIVE, help="Padded tokens of a sequence."),
    click.option("--accum", "accumulation", default=1, show_default=True, type=_POSITIVE, help="Micro-batches in a step."),
    click.option("--padded", is_flag=True, help="Rows of different lengths, so that a mask is built."),
    click.option("--loss", type=click.Choice(["completion", "stock", "chunked", "liger"]), default="stock", show_default=True,
                 help="stock: transformers' own; completion: only wanted positions upcast; chunked, liger: never all logits."),
    click.option("--loss-share", default=1.0, show_default=True, type=float, help="Share of the positions with a loss."),
    click.option("--optimizer", default="adamw_fused", show_default=True, type=click.Choice([
        "adamw", "adamw_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw", "adafactor", "sgd", "sgd_momentum", "lion", "lion_8bit",
    ])),
    click.option("--master-weights", is_flag=True, help="A float32 copy of 16-bit weights (full)."),
    click.option("--checkpointing", is_flag=False, flag_value="non-reentrant", default="none", show_default=True,
                 type=click.Choice(["none", "non-reentrant", "reentrant"]), help="Run layers again in the backward pass."),
    click.option("--attention", type=click.Choice(["sdpa", "eager"]), default="sdpa", show_default=True),
    click.option("--experts", type=click.Choice(["grouped_mm", "eager", "batched_mm"]), default="grouped_mm", show_default=True),
    click.option("--lora-rank", default=16, show_default=True, type=_POSITIVE),
    click.option("--expert-rank", type=_POSITIVE, help="Of experts, where it is another."),
    click.option("--lora-attention/--no-lora-attention", default=True, show_default=True),
    click.option("--lora-experts/--no-lora-experts", default=True, show_default=True),
    click.option("--expert-lora", type=click.Choice(["peft", "grouped"]), default="peft", show_default=True,
                 help="peft builds W + ΔW for every layer; grouped never does."),
    click.option("--bits", type=click.Choice(["4", "8"]), default="4", show_default=True, help="Of quantised weights (qlora)."),
    click.option("--double-quant", is_flag=True, help="Quantise the scales of 4-bit blocks too."),
    click.option("--quantise-experts", is_flag=True, help="Experts too; bitsandbytes in transformers 5 leaves them out."),
    click.option("--kbit-prepare", is_flag=True, help="PEFT's prepare_model_for_kbit_training."),
    click.option("--world", default=1, show_default=True, type=_POSITIVE, help="Devices."),
    click.option("--zero", type=click.IntRange(0, 3), default=0, show_default=True, help="DeepSpeed ZeRO stage."),
    click.option("--fsdp", is_flag=True, help="FSDP2."),
    click.option("--expert-parallel", default=1, show_default=True, type=_POSITIVE),
    click.option("--offload-optimizer", type=click.Choice(["none", "cpu", "nvme"]), default="none", show_default=True),
    click.option("--offload-parameters", type=click.Choice(["none", "cpu", "nvme"]), default="none", show_default=True),
    click.option("--buffer", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share to add on top of the sum."),
    click.option("--override", "overrides", multiple=True, metavar="PART=GIB", help="A part that you know better."),
    click.option("--eval-batch", "eval_sequences", default=1, show_default=True, type=_POSITIVE),
    click.option("--eval-length", default=512, show_default=True, type=_POSITIVE, help="Longest prompt and answer together."),
)  # fmt: skip


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a run."""
    for option in reversed(_RUN):
        command = option(command)
    return command


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how much memory there is."""
    for option in reversed((
        click.option("--gpu", help="Name of a GPU in the table (`moe-memprof hardware`)."),
        click.option("--available", type=click.FloatRange(min=0, min_open=True), help="GiB there are, instead of a GPU's name."),
        click.option("--memory-fraction", default=1.0, show_default=True, type=click.FloatRange(min=0, max=1, min_open=True),
                     help="Share of it that the run may take."),
    )):  # fmt: skip
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much memory there is."""

    bytes: int
    name: str


def make_budget(gpu: str | None, available: float | None, fraction: float) -> Budget | None:
    """The memory that the options name; None where they name none.

    Raises:
        MemprofError: for both at once, or a GPU that the table does not have.
    """
    if gpu is not None and available is not None:
        raise MemprofError("--gpu and --available are both given; keep one")
    if gpu is None and available is None:
        return None
    if available is not None:
        return Budget(bytes=int(available * fraction * GIB), name=f"{available:g} GiB")
    from moe_memprof.hardware import lookup

    row = lookup(str(gpu))
    return Budget(bytes=int(row.usable * fraction), name=row.name)


CONTEXT = int(0.6 * GIB)
"""CUDA context, kernels and libraries: nvidia-smi above reserved in published runs (0.13 to 0.96 GiB, median 0.6)."""


def make_spec(model: str, values: dict[str, Any]) -> RunSpec:
    """A run from the command line's options.

    Raises:
        MemprofError: for whatever does not go together.
    """
    from moe_memprof.devices import Parallel
    from moe_memprof.spec import RunSpec, read_config

    parallel = Parallel(**{f.name: values.pop(f.name) for f in fields(Parallel) if f.name in values})
    values["overrides"] = dict(_override(text) for text in values["overrides"])
    values = {**values, "bits": int(values["bits"]), "parallel": parallel}
    if values["device"] == "cuda":
        values["baseline"] = CONTEXT
    return RunSpec(config=read_config(model), **values)


def _override(text: str) -> tuple[str, int]:
    name, _, gib = text.rpartition("=")
    try:
        return name.strip(), int(float(gib) * GIB)
    except ValueError:
        raise MemprofError(f"--override {text}: expected PART=GIB, such as 'tensor being read=0'") from None
