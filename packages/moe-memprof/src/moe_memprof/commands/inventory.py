"""`moe-memprof inventory`: every tensor of a model, by role."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_memprof.commands.options import mendable

if TYPE_CHECKING:
    from moe_memprof.architectures.base import TensorSpec


@click.command()
@click.argument("model")
@click.option(
    "--stored",
    is_flag=True,
    help="Read what a checkpoint stores, from the headers of its safetensors files (local, or a hub id).",
)
@click.option("--tensors", is_flag=True, help="Name every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, every tensor named.")
@mendable
def inventory(model: str, stored: bool, tensors: bool, as_json: bool) -> None:
    """The parameters of MODEL by role, as transformers would build it from its config.json, or as a checkpoint stores them."""
    from moe_memprof.architectures.base import count_by_role
    from moe_memprof.report import count, size

    active: int | None = None
    if stored:
        from moe_memprof.architectures.headers import read_checkpoint, read_hub

        found = read_checkpoint(model) if Path(model).exists() else read_hub(model)
        listed: Sequence[TensorSpec] = found.tensors
        summary = f"{count(found.parameters)} numbers stored in {size(found.bytes)}, {len(listed):,} tensors"
    else:
        from moe_memprof.architectures.registry import describe
        from moe_memprof.spec import read_config

        described = describe(read_config(model))
        listed, active = described.tensors, described.active_parameters
        summary = f"{count(described.parameters)} parameters, {count(active)} active per token, {len(listed):,} tensors"
    roles = count_by_role(listed)
    if as_json:
        rows = [
            {"name": t.name, "shape": t.shape, "role": t.role, "kind": t.kind, "layer": t.layer, "dtype": t.dtype}
            for t in listed
        ]
        total = sum(t.elements for t in listed)
        click.echo(
            json.dumps(
                {
                    "schema": "moe-memprof/inventory@1",
                    "parameters": total,
                    "active_parameters": active,
                    "by_role": roles,
                    "tensors": rows,
                }
            )
        )
        return
    click.echo(summary)
    for role, n in sorted(roles.items(), key=lambda item: -item[1]):
        click.echo(f"  {role:14} {n:>18,}")
    if tensors:
        for t in listed:
            click.echo(f"{t.name}  {list(t.shape)}  {t.role}" + (f"  {t.dtype}" if t.dtype else ""))
