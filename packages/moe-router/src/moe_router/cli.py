"""The `moe-router` command."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from moe_router import __version__
from moe_router.errors import RouterError, mendable
from moe_router.operations.commands import operations

if TYPE_CHECKING:
    from moe_router.pages.analysis import Analysis

FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moe-router")
def main() -> None:
    """Which experts do what, and is the routing healthy?"""


main.add_command(operations)


@main.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the layers as JSON.")
@mendable
def inspect(model: str, as_json: bool) -> None:
    """The MoE layers of MODEL, a folder, a config.json or a hub id. No weights are loaded.

    The exit code is 1 when there are none.
    """
    from importlib.metadata import version

    import torch
    from rich.console import Console
    from transformers import AutoConfig, AutoModelForCausalLM

    from moe_router.architectures.registry import diagnose, find_moe_layers
    from moe_router.architectures.support import window
    from moe_router.report import render_layers

    _check_model(model)
    try:
        config = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise RouterError(
            f"model {model}: transformers cannot build it: {' '.join(str(error).split())[:300]}"
        ) from None
    layers = find_moe_layers(built)
    read = f"transformers {version('transformers')}: {window(version('transformers'))}"
    if as_json:
        rows = [
            {
                "name": x.name,
                "router": x.router_name,
                "experts": x.num_experts,
                "top_k": x.top_k,
                "scoring": x.scoring,
                "stream": x.stream,
                "adapter": x.adapter.name,
                "tested": x.tested,
            }
            for x in layers
        ]
        click.echo(json.dumps({"schema": "moe-router/layers@1", "read": read, "layers": rows}, indent=1))
    elif layers:
        render_layers(Console(), layers, parameters=sum(p.numel() for p in built.parameters()))
        click.echo(read)
    else:
        click.echo(f"no MoE layer: {diagnose(built)}")
    raise SystemExit(0 if layers else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the matrix as JSON.")
def architectures(as_json: bool) -> None:
    """The architectures whose routing is compared, token by token, with what their experts receive, in this package's tests.

    Others are recognised by their structure, which is said, and what their experts receive is compared as they run.
    """
    from importlib.metadata import version

    from rich.console import Console

    from moe_router.architectures.registry import plugged_in
    from moe_router.architectures.support import ARCHITECTURES, window
    from moe_router.report import render_support

    installed = version("transformers")
    plugged = [adapter.name for adapter in plugged_in()]
    if as_json:
        rows = [asdict(support) for support in ARCHITECTURES]
        values = {"transformers": installed, "window": window(installed), "plugged_in": plugged, "architectures": rows}
        click.echo(json.dumps({"schema": "moe-router/architectures@1", **values}, indent=1))
        return
    render_support(Console(), ARCHITECTURES, note=f"transformers {installed}: {window(installed)}", plugged=plugged)


@main.command()
@click.argument("model")
@click.argument("data", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="The trace to write.")
@click.option("--by", help="A field of the records to count by, such as task.")
@click.option(
    "--types",
    default="lexical",
    show_default=True,
    type=click.Choice(["lexical", "operation", "position", "part", "none"]),
    help="Tell tokens apart by what they are, by the operation of their step, by quarter of the sample, or by prompt and completion.",
)
@click.option("--tokens", type=FILE, help="A full trace to write as well, token by token.")
@click.option("--weights", is_flag=True, help="Keep the routing weights in the full trace too.")
@click.option("--stream", help="What to record where a model routes several things: text, encoder, decoder or vision.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1), help="Records in one forward pass.")
@click.option(
    "--max-length",
    default=2048,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tokens of a record that are read.",
)
@mendable
def trace(
    model: str,
    data: Path,
    output: Path,
    by: str | None,
    types: str,
    tokens: Path | None,
    weights: bool,
    stream: str | None,
    batch: int,
    max_length: int,
) -> None:
    """Record where MODEL routes the records of DATA, a JSONL file of text, prompt/completion or messages."""
    from rich.console import Console

    from moe_router.record import TraceOptions, record
    from moe_router.report import render_trace

    _check_model(model)
    _check_folders(output, tokens)
    options = TraceOptions(
        by=by,
        types=None if types == "none" else types,
        tokens=tokens,
        weights=weights,
        stream=stream,
        batch=batch,
        max_length=max_length,
    )
    console = Console()
    recorded = record(model, data, options, console)
    recorded.save(output)
    render_trace(console, recorded)


def _check_model(model: str) -> None:
    """Refuse what can be neither a folder, a file nor a hub id before transformers goes looking for it on the network."""
    if not Path(model).exists() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
        raise RouterError(f"model {model}: no such folder; give a folder with a config.json, or a hub id (owner/name)")


@main.command()
@click.argument("model")
@click.option(
    "--config", "config", type=FILE, help="The configuration of the run the model is meant for, YAML or JSON."
)
@click.option("--data", type=FILE, help="A JSONL file to look at the model with; without it, tokens drawn at random.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@mendable
def doctor(model: str, config: Path | None, data: Path | None, as_json: bool) -> None:
    """Look for every known silent failure of routing in MODEL: what was measured, and the mend.

    The exit code is 1 when there is an error among the findings.
    """
    from rich.console import Console

    from moe_router.doctor.checkup import CHECKS, batch_for, examine, read_run
    from moe_router.record import load_model
    from moe_router.report import render_findings

    _check_model(model)
    run = {} if config is None else read_run(config)
    loaded, tokenizer = load_model(model, with_tokenizer=data is not None)
    findings = examine(loaded, batch_for(loaded, tokenizer, data), run=run, random_tokens=data is None)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        click.echo(json.dumps({"schema": "moe-router/findings@1", "checks": list(CHECKS), "findings": rows}, indent=1))
    else:
        render_findings(Console(), findings, checks=len(CHECKS))
    raise SystemExit(1 if any(finding.severity == "error" for finding in findings) else 0)


@main.command()
@click.argument("trace_file", metavar="TRACE", type=FILE)
@click.option("-o", "--output", type=FILE, help="Write a report, one HTML file.")
@click.option("--figures", type=FILE, help="A folder for the report's pictures on their own.")
@click.option(
    "--format", "kind", default="png", show_default=True, type=click.Choice(["png", "svg"]), help="Of the pictures."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@mendable
def analyze(trace_file: Path, output: Path | None, figures: Path | None, kind: str, as_json: bool) -> None:
    """How evenly experts were used, what sets groups and token types apart, which experts work together.

    TRACE is what `trace` or `import` wrote, sums or token by token.
    """
    from moe_router.comparison import load_any
    from moe_router.report import render_trace

    loaded, _ = load_any(trace_file)
    _check_folders(output, figures)
    analysis = None
    if as_json or output is not None or figures is not None:
        from moe_router.pages.analysis import analyse

        analysis = analyse(loaded)
        _write_report(analysis, output, figures, kind)
    if as_json and analysis is not None:
        from moe_router.pages.numbers import as_json as numbers

        click.echo(json.dumps({"schema": "moe-router/summary@1", **numbers(analysis)}, indent=1))
        return
    from rich.console import Console

    render_trace(Console(), loaded)
    for path in (output, figures):
        if path is not None:
            click.echo(f"wrote {path}")


def _check_folders(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise RouterError(f"output {path}: the folder {path.parent} does not exist")


def _write_report(analysis: Analysis, output: Path | None, figures: Path | None, kind: str) -> None:
    if output is None and figures is None:
        return
    try:
        from moe_router.pages.figures import pictures, save
        from moe_router.pages.page import write
    except ImportError as error:
        raise RouterError(f"a report needs {error.name}: pip install 'moe-router[report]'") from None
    if output is not None:
        write(analysis, output)
    if figures is not None:
        figures.mkdir(exist_ok=True)
        for name, picture in pictures(analysis).items():
            save(picture, figures / f"{name}.{kind}")


@main.command()
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option("--data", type=FILE, help="Text to record both on, where BEFORE and AFTER are checkpoints.")
@click.option(
    "--fail-above", type=click.FloatRange(0, 1), help="Exit 1 when a layer's divergence is above this many bits."
)
@click.option("--json", "as_json", is_flag=True, help="Print the divergences as JSON.")
@mendable
def diff(before: Path, after: Path, data: Path | None, fail_above: float | None, as_json: bool) -> None:
    """How far the routing of two traces, or of two checkpoints on DATA, lies apart on the same tokens, layer by layer."""
    from moe_router.comparison import drift, load_any
    from moe_router.report import render_comparison

    with TemporaryDirectory() as folder:
        paths = [before, after]
        for n, path in enumerate(paths):
            if not path.is_file() and data is not None:
                paths[n] = _recorded(str(path), data, Path(folder) / f"{n}.tokens")
            elif path.is_dir():
                raise RouterError(f"{path} is a folder: to compare checkpoints give the text too, with --data FILE")
        (first, first_tokens), (second, second_tokens) = map(load_any, paths)
        both = None if first_tokens is None or second_tokens is None else (first_tokens, second_tokens)
        rows = drift(first, second, both)
    worst = max(row.js_divergence for row in rows)
    if as_json:
        layers = [asdict(row) for row in rows]
        click.echo(json.dumps({"schema": "moe-router/diff@1", "worst": worst, "layers": layers}, indent=1))
    else:
        from rich.console import Console

        render_comparison(Console(), rows)
    raise SystemExit(1 if fail_above is not None and worst > fail_above else 0)


def _recorded(model: str, data: Path, path: Path) -> Path:
    """The full trace of a checkpoint on a text."""
    from rich.console import Console

    from moe_router.record import TraceOptions, record

    _check_model(model)
    record(model, data, TraceOptions(types=None, tokens=path), Console(stderr=True))
    return path


@main.command("import")
@click.argument("exported", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="The trace to write.")
@click.option("--experts", required=True, type=click.IntRange(min=2), help="Experts of a layer.")
@click.option("--layers", required=True, type=click.IntRange(min=1), help="MoE layers.")
@click.option("--top-k", required=True, type=click.IntRange(min=1), help="Experts per token.")
@click.option("--by", help="A field of the records to group by.")
@mendable
def import_(exported: Path, output: Path, experts: int, layers: int, top_k: int, by: str | None) -> None:
    """Make a trace of what an inference engine exported: JSONL with a field `routed_experts` in every record.

    That is a nested list of [tokens, layers, top-k], or a buffer of int32 in base64, as vLLM and SGLang give them.
    """
    from moe_router.text import lines_of
    from moe_router.token_trace import from_routed_experts

    _check_folders(output)
    sequences, groups = [], []
    for number, line in enumerate(lines_of(exported, what="export"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            sequences.append(record["routed_experts"])
            groups.append(str(record[by]) if by else "all")
        except json.JSONDecodeError as error:
            raise RouterError(f"export {exported}:{number}: not JSON ({error.msg}); one object to a line") from None
        except (KeyError, TypeError):
            fields = f"routed_experts and {by}" if by else "routed_experts"
            raise RouterError(f"export {exported}:{number}: needs an object with {fields}") from None
    trace = from_routed_experts(
        sequences, num_experts=experts, layers=layers, top_k=top_k, group=groups, model=exported.stem
    )
    trace.save(output)
    click.echo(f"wrote {output}: {len(trace.experts_TLK):,} tokens of {len(trace.group_N):,} requests")
