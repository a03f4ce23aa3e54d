"""Every set that can be read, by name, and the way to one's own tables."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl

from moe_bench.datasets import logic, mathematics
from moe_bench.datasets.rows import read
from moe_bench.errors import BenchError
from moe_bench.item import Item


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A set of problems as it is published."""

    what: str
    licence: str
    source: str
    """Where it is published."""
    format: str
    """Of its file."""
    read: Callable[[Path], Iterator[Item]]


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "gsm8k": Dataset(
            what="8,792 school word problems with worked solutions", licence="MIT", source="github.com/openai/grade-school-math",
            format="train.jsonl or test.jsonl: question, answer", read=mathematics.gsm8k,
        ),
        "math": Dataset(
            what="competition mathematics; MATH-500 is a part of it", licence="MIT",
            source="huggingface.co/datasets/HuggingFaceH4/MATH-500",
            format="JSONL: problem, solution, answer, subject, level", read=mathematics.math,
        ),
        "svamp": Dataset(
            what="1,000 varied one-step word problems", licence="MIT", source="github.com/arkilpatel/SVAMP",
            format="JSON or JSONL: Body, Question, Answer, Type, ID", read=mathematics.svamp,
        ),
        "processbench": Dataset(
            what="solutions whose first wrong step people marked", licence="Apache-2.0", source="huggingface.co/datasets/Qwen/ProcessBench",
            format="JSONL: problem, steps, label", read=mathematics.processbench,
        ),
        "mr_gsm8k": Dataset(
            what="GSM8K and variants, with judged solutions", licence="MIT", source="github.com/dvlab-research/MR-GSM8K",
            format="JSONL: question, ground_truth_answer, ...", read=mathematics.mr_gsm8k,
        ),
        "bbh": Dataset(
            what="27 tasks that were hard for language models", licence="MIT", source="github.com/suzgunmirac/BIG-Bench-Hard",
            format="a task's JSON, or the folder of all: examples with input, target", read=logic.bbh,
        ),
        "prontoqa": Dataset(
            what="deduction in invented worlds", licence="MIT", source="github.com/teacherpeterpan/Logic-LLM",
            format="dev.json: context, question, options, answer", read=partial(logic.options, task="prontoqa", operation="deduce"),
        ),
        "proofwriter": Dataset(
            what="rules and facts in an open world", licence="MIT", source="github.com/teacherpeterpan/Logic-LLM",
            format="dev.json: context, question, options, answer", read=partial(logic.options, task="proofwriter", operation="deduce"),
        ),
        "logicaldeduction": Dataset(
            what="orders of three to seven objects", licence="MIT", source="github.com/teacherpeterpan/Logic-LLM",
            format="dev.json: context, question, options, answer",
            read=partial(logic.options, task="logicaldeduction", operation="ordering"),
        ),
        "folio": Dataset(
            what="conclusions from premises in natural English", licence="CC-BY-SA-4.0", source="github.com/Yale-LILY/FOLIO",
            format="JSONL: premises, conclusion, label", read=logic.folio,
        ),
    }
)  # fmt: skip
"""By name."""
_OWN = ("csv", "jsonl", "json")


def names_a_dataset(text: str) -> bool:
    """Whether a text is `NAME:FILE` with a name that could be one of a set."""
    name, colon, rest = text.partition(":")
    return bool(colon and rest) and name.replace("_", "").isalnum() and len(name) > 1 and not Path(text).exists()


def load_dataset(text: str) -> list[Item]:
    """The items of `NAME:FILE`, or of one's own table `csv:FILE?prompt=COLUMN&target=COLUMN`.

    Columns may be given for prompt, target, task, solution and answer_kind; what is not named is looked for under its own name.

    Raises:
        BenchError: for an unknown name, a file that cannot be read, or a record that is not as the set's are.
    """
    name, _, rest = text.partition(":")
    if name in _OWN:
        file, _, query = rest.partition("?")
        return _distinct(_own(Path(file), dict(parse_qsl(query))), file)
    if name not in DATASETS:
        near = difflib.get_close_matches(name, [*DATASETS, *_OWN], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise BenchError(f"data {name!r}: not one of {', '.join([*DATASETS, *_OWN])}{meant}")
    return _distinct(DATASETS[name].read(Path(rest)), rest)


def _own(path: Path, columns: dict[str, str]) -> Iterator[Item]:
    known = ("prompt", "target", "task", "solution", "answer_kind")
    odd = sorted(set(columns) - set(known))
    if odd:
        raise BenchError(f"data {path}: {odd[0]} is none of {', '.join(known)}, for which a column can be named")
    for row in read(path):
        more = {
            name: str(row.values.get(columns.get(name, name)) or "") for name in ("task", "solution", "answer_kind")
        }
        kind = more["answer_kind"]
        yield Item(
            prompt=row.text(columns.get("prompt", "prompt")), target=row.text(columns.get("target", "target")),
            task=more["task"] or path.stem, solution=more["solution"],
            metadata={"set": path.name, "index": row.number, **({"answer_kind": kind} if kind else {})},
        )  # fmt: skip


def _distinct(items: Iterator[Item], where: str) -> list[Item]:
    """The items, each once: a published set may hold the same problem twice, a run may not."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.id, item)
    if not found:
        raise BenchError(f"data {where}: holds no item")
    return list(found.values())
