"""`moe-memprof audit`: what stays unquantised or untrained, before any download."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from moe_memprof.commands.options import mendable
from moe_memprof.errors import MemprofError

if TYPE_CHECKING:
    from moe_memprof.audit.request import LoraRequest, Patterns


@click.command()
@click.argument("model")
@click.option("--load-in", type=click.Choice(["4bit", "8bit", "none"]), default="none", show_default=True,
              help="load_in_4bit / load_in_8bit of a BitsAndBytesConfig.")  # fmt: skip
@click.option("--double-quant", is_flag=True, help="bnb_4bit_use_double_quant.")
@click.option("--skip-modules", metavar="NAMES", help="llm_int8_skip_modules, with commas between.")
@click.option("--dequantize", is_flag=True, help="Load a checkpoint that comes in MXFP4 or FP8 in its dtype.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="dtype of from_pretrained, if given."
)
@click.option("--target-modules", metavar="NAMES", help="With commas between, or all-linear, or regex:PATTERN.")
@click.option("--target-parameters", metavar="NAMES", help="With commas between.")
@click.option("--exclude-modules", metavar="NAMES", help="With commas between, or regex:PATTERN.")
@click.option("--modules-to-save", metavar="NAMES", help="With commas between.")
@click.option("--rank", type=click.IntRange(min=1), help="Of the LoRA.  [default: 16]")
@click.option("--dropout", type=click.FloatRange(min=0, max=1, max_open=True), help="lora_dropout.  [default: 0]")
@click.option("--peft-config", type=click.Path(), help="All of these from an adapter_config.json.")
@click.option("--transformers", metavar="VERSION", help="Instead of the installed release.")
@click.option("--peft", metavar="VERSION", help="Instead of the installed release.")
@click.option("--bitsandbytes", metavar="VERSION", help="Instead of the installed release.")
@click.option("--json", "as_json", is_flag=True, help="Print the audit as JSON.")
@mendable
def audit(
    model: str,
    load_in: str,
    double_quant: bool,
    skip_modules: str | None,
    dequantize: bool,
    dtype: str | None,
    target_modules: str | None,
    target_parameters: str | None,
    exclude_modules: str | None,
    modules_to_save: str | None,
    rank: int | None,
    dropout: float | None,
    peft_config: str | None,
    transformers: str | None,
    peft: str | None,
    bitsandbytes: str | None,
    as_json: bool,
) -> None:
    """What transformers, peft and bitsandbytes really quantise and adapt of MODEL: a folder, a config.json, or a cached hub id.

    Nothing is downloaded and nothing loaded. Without a LoRA option only the loading is looked at. The exit code is 1 when a finding is
    an error: the run would not be what was asked for.
    """
    from moe_memprof.audit.checking import audit_model
    from moe_memprof.audit.quantised import Loading
    from moe_memprof.audit.request import LoraRequest, read_adapter_config
    from moe_memprof.audit.versions import resolve_stack
    from moe_memprof.spec import read_config

    given = (target_modules, target_parameters, exclude_modules, modules_to_save, rank, dropout)
    lora: LoraRequest | None = None
    if peft_config is not None:
        if any(value is not None for value in given):
            raise MemprofError(
                "--peft-config holds the targets, rank and dropout already; leave the options for them out"
            )
        lora = read_adapter_config(peft_config)
    elif any(value is not None for value in given):
        parameters = _names(target_parameters)
        lora = LoraRequest(
            target_modules=_patterns(target_modules),
            target_parameters=None if parameters is None else frozenset(parameters),
            exclude_modules=_patterns(exclude_modules),
            modules_to_save=tuple(_names(modules_to_save) or ()),
            rank=16 if rank is None else rank,
            dropout=dropout or 0.0,
        )
    skip = _names(skip_modules)
    made = audit_model(
        read_config(model),
        loading=Loading(
            bits={"4bit": 4, "8bit": 8, "none": None}[load_in],
            double_quant=double_quant,
            skip_modules=None if skip is None else tuple(skip),
            dtype=dtype,
            dequantize=dequantize,
        ),
        lora=lora,
        stack=resolve_stack(transformers=transformers, peft=peft, bitsandbytes=bitsandbytes),
    )
    if as_json:
        click.echo(json.dumps(made.to_dict(), indent=1))
    else:
        from rich.console import Console

        from moe_memprof.audit.rendering import render_audit

        render_audit(Console(highlight=False), made)
    raise SystemExit(0 if made.ok else 1)


def _names(value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


def _patterns(value: str | None) -> Patterns:
    """A list of names, or a string that peft treats as such: a regex, or all-linear."""
    if value is None:
        return None
    if value.startswith("regex:"):
        return value.removeprefix("regex:")
    return value if value.lower() == "all-linear" else frozenset(_names(value) or ())
