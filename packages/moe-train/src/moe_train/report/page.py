"""Gathers a run's files and renders the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.files import read_json, read_jsonl, write_text
from moe_train.report import plots

if TYPE_CHECKING:
    from moe_router import RoutingTrace

_SAMPLES_SHOWN = 4


def write_report(run: Path) -> Path:
    """Write `report.html` into the run's folder from the files there; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    from moe_memprof.report import size

    environment = Environment(
        loader=PackageLoader("moe_train", "assets/report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "percent": lambda v: f"{v:.0%}", "p": p_value}
    path = run / "report.html"
    write_text(path, environment.get_template("report.html.j2").render(gather(run)))
    return path


def p_value(value: float) -> str:
    """A p-value as text: two digits, or a power of ten when it is small."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def gather(run: Path) -> dict[str, Any]:
    """Everything the page shows."""
    result, data = read_json(run / "result.json"), read_json(run / "data.json")
    metrics = read_jsonl(run / "metrics.jsonl")
    plan = read_json(run / "plan.json")
    receipt = read_json(run / "receipt.json") if (run / "receipt.json").is_file() else None
    memory = read_jsonl(run / "memory.jsonl")
    losses = result["held_out_loss"]
    tasks = _tasks(result["answers"]) + _tasks(result["retained"])
    routing = _routing(run)
    return {
        "name": run.name,
        "result": result,
        "answers": result["answers"],
        "retained": result["retained"],
        "losses": losses,
        "tasks": tasks,
        "data": data,
        "environment": read_json(run / "environment.json"),
        "proof": read_json(run / "proof.json"),
        "plan": plan,
        "receipt": receipt,
        "stages": read_json(run / "stages.json")["seconds"],
        "config": (run / "config.yaml").read_text(encoding="utf-8"),
        "metrics": {"first": metrics[0], "last": metrics[-1]},
        "memory_peak": max(line["rss"] for line in memory),
        "routing": routing,
        "samples": _samples(run),
        "plots": {
            "loss": plots.loss_plot(metrics, (_loss_of_all_tokens(run, "base"), _loss_of_all_tokens(run, "tuned"))),
            "routing": plots.routing_plot(metrics) if "load_entropy" in metrics[0] else "",
            "load": plots.load_plot(routing["before_LE"], routing["after_LE"]) if routing else "",
            "memory": plots.memory_plot(memory, _planned_peak(plan)),
            "accuracy": plots.accuracy_plot(tasks) if tasks else "",
        },
    }


def _loss_of_all_tokens(run: Path, label: str) -> float:
    """The held-out loss weighed as the training loss is: every completion token alike, not every record."""
    records = read_json(run / "eval" / f"losses-{label}.json")["records"]
    return float(sum(loss * tokens for _, loss, tokens in records) / sum(tokens for _, _, tokens in records))


def _planned_peak(plan: dict[str, Any]) -> int | None:
    """The highest peak of the plan's phases, where there is a plan."""
    return max(phase["peak"] for phase in plan["estimate"]["phases"]) if plan["estimate"] else None


def _tasks(answers: dict[str, Any] | None) -> list[dict[str, Any]]:
    if answers is None:
        return []
    return [
        {
            "task": row["task"],
            "n": row["n"],
            "before": row["accuracy_a"],
            "after": row["accuracy_b"],
            "p": row["p_adjusted"],
            "verdict": row["verdict"],
        }
        for row in answers["tasks"]
    ]


def _routing(run: Path) -> dict[str, Any] | None:
    """Load of both traces, its summary by layer, and the divergence between them."""
    before_path, after_path = run / "routing" / "base.trace", run / "routing" / "tuned.trace"
    if not before_path.is_file() or not after_path.is_file():
        return None
    from moe_router import RoutingTrace
    from moe_router.metrics.drift import js_divergence
    from moe_router.metrics.load import max_violation, normalised_entropy

    before, after = RoutingTrace.load(before_path), RoutingTrace.load(after_path)
    before_LE, after_LE = _load(before), _load(after)
    rows = [
        {
            "layer": layer,
            "entropy_before": float(normalised_entropy(b)),
            "entropy_after": float(normalised_entropy(a)),
            "max_vio_before": float(max_violation(b)),
            "max_vio_after": float(max_violation(a)),
            "divergence": float(js_divergence(b, a)),
        }
        for layer, (b, a) in enumerate(zip(before_LE, after_LE, strict=True))
    ]
    return {
        "before_LE": before_LE,
        "after_LE": after_LE,
        "rows": rows,
        "tokens": int(before.tokens_G.sum()),
        "top_k": before.top_k,
    }


def _load(trace: RoutingTrace) -> Any:
    counts_LE = trace.counts_GLE.sum(0).astype(float)
    return counts_LE / counts_LE.sum(1, keepdims=True)


def _samples(run: Path) -> list[dict[str, str]]:
    """A few items whose answer changed between right and wrong, one of each task at most, gains first."""
    before = {s["id"]: s for s in read_jsonl(run / "eval" / "base" / "samples.jsonl")}
    after = {s["id"]: s for s in read_jsonl(run / "eval" / "tuned" / "samples.jsonl")}
    shown: list[dict[str, str]] = []
    for gained in (True, False):
        seen: set[str] = set()
        for item, b in before.items():
            a = after.get(item)
            if a is None or a["correct"] == b["correct"] or a["correct"] != gained or a["task"] in seen:
                continue
            seen.add(a["task"])
            kind = "wrong before, right after" if gained else "right before, wrong after"
            shown.append(
                {
                    "task": a["task"],
                    "kind": kind,
                    "prompt": a["prompt"],
                    "target": a["target"],
                    "before": b["output"],
                    "after": a["output"],
                }
            )
            if len(seen) == _SAMPLES_SHOWN:
                break
    return shown
