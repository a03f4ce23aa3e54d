"""The checks, and what they come to."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from moe_bench.validate.rows import Row
from moe_bench.validate.similar import near_pairs, plain, template

SCHEMA = "moe-bench/validation@1"
Severity = Literal["error", "warning", "note"]
_CANARY = re.compile(r"canary|26b5c67b-86b7-4a9a-9b4e|BENCHMARK DATA SHOULD NEVER APPEAR", re.I)
_DAMAGED = re.compile("Ã[\x80-\xbf©¨±]|â€[™œ\x9d“”]|Â[\xa0£°]|�")
_LETTER = re.compile(r"\(?([A-J])\)?")
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault, and where."""

    check: str
    severity: Severity
    """error: judging with it would mislead. warning: may be. note: to be known."""
    what: str
    """In a sentence, with the numbers."""
    lines: tuple[int, ...] = ()
    """Of the file, the first few."""
    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a file."""

    rows: int
    findings: tuple[Finding, ...]
    checks: tuple[str, ...] = field(default=())
    """All that were made."""

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(f.severity == "error" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-bench/validation@1."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "rows": self.rows,
            "checks": list(self.checks),
            "findings": [asdict(f) for f in self.findings],
        }


def validate(rows: Sequence[Row], *, against: Sequence[Row] = (), near: float = 0.8) -> Report:
    """Check a set of problems.

    Args:
        rows: the set.
        against: records of training, or another split, with which it must have nothing in common.
        near: from which Jaccard index of three-word shingles two prompts are nearly the same.
    """
    checks = (
        ("empty fields", _empty(rows)),
        ("duplicates", _duplicates(rows)),
        ("near-duplicates", _near(rows, near)),
        ("templates", _templates(rows)),
        ("answers", _answers(rows)),
        ("balance of answers", _balance(rows)),
        ("position of the right choice", _position(rows)),
        ("lengths", _lengths(rows)),
        ("canaries", _marks(rows, "canaries", _CANARY, "note", "a canary: it asks to be kept out of training data")),
        ("encoding", _marks(rows, "encoding", _DAMAGED, "warning", "letters that were decoded in the wrong way")),
        *((("leakage", _leakage(rows, against, near)),) if against else ()),
    )
    found = tuple(finding for _, findings in checks for finding in findings)
    order = {"error": 0, "warning": 1, "note": 2}
    return Report(
        rows=len(rows),
        findings=tuple(sorted(found, key=lambda f: order[f.severity])),
        checks=tuple(name for name, _ in checks),
    )


def _finding(check: str, severity: Severity, what: str, lines: Sequence[int]) -> Finding:
    return Finding(check=check, severity=severity, what=what, lines=tuple(lines[:_SHOWN]), count=len(lines))


def _empty(rows: Sequence[Row]) -> Iterator[Finding]:
    for field_name in ("prompt", "target"):
        lines = [row.line for row in rows if not getattr(row, field_name).strip()]
        if lines:
            yield _finding("empty fields", "error", f"{len(lines)} of {len(rows)} have no {field_name}", lines)


def _duplicates(rows: Sequence[Row]) -> Iterator[Finding]:
    by_prompt: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_prompt[plain(row.prompt)].append(row)
    repeated = [group for group in by_prompt.values() if len(group) > 1]
    differing = [group for group in repeated if len({plain(row.target) for row in group}) > 1]
    same = [group for group in repeated if group not in differing]
    if differing:
        lines = [row.line for group in differing for row in group]
        yield _finding(
            "duplicates", "error", f"{len(differing)} prompts stand there several times with different answers", lines
        )
    if same:
        lines = [row.line for group in same for row in group[1:]]
        yield _finding("duplicates", "error", f"{len(lines)} of {len(rows)} repeat an earlier prompt and answer", lines)


def _near(rows: Sequence[Row], threshold: float) -> Iterator[Finding]:
    pairs = sorted(near_pairs([row.prompt for row in rows], threshold=threshold), key=lambda p: -p[2])
    if pairs:
        i, j, index = pairs[0]
        what = f"{len(pairs)} pairs of prompts are nearly the same (Jaccard index of three words from {threshold:g}); nearest lines "
        lines = sorted({rows[j].line for _, j, _ in pairs})
        yield _finding("near-duplicates", "warning", f"{what}{rows[i].line} and {rows[j].line} ({index:.2f})", lines)


def _templates(rows: Sequence[Row]) -> Iterator[Finding]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups[template(row.prompt)].append(row.line)
    again = [lines for lines in groups.values() if len(lines) > 1]
    if again:
        lines = sorted(line for group in again for line in group[1:])
        largest = max(map(len, again))
        what = f"{len(lines)} of {len(rows)} are another row with other numbers ({len(again)} templates, the largest of {largest})"
        yield _finding("templates", "note", what, lines)


def _answers(rows: Sequence[Row]) -> Iterator[Finding]:
    from moe_bench.answers import KINDS, extract_answer, infer_kind, judge

    unknown, unread, refused, other = list[int](), list[int](), list[int](), list[int]()
    for row in rows:
        if not row.target:
            continue
        if row.kind and row.kind not in KINDS:
            unknown.append(row.line)
            continue
        kind = row.kind or infer_kind(row.target)
        if kind == "expression":
            continue  # needs math-verify, and seconds for some
        found = extract_answer(f"The answer is {row.target}.", kind, options=row.choices).answer
        if found is None:
            unread.append(row.line)
        elif not judge(found, row.target, kind, options=row.choices).correct:
            refused.append(row.line)
        elif row.solution and kind == "number" and not _occurs(row):
            other.append(row.line)
    for lines, severity, what in (
        (unknown, "error", f"answer_kind is none of {', '.join(KINDS)}"),
        (unread, "error", "an answer that states exactly the target would not be found"),
        (refused, "error", "an answer that states exactly the target would be called wrong"),
        (other, "warning", "the target does not occur in the worked solution"),
    ):
        if lines:
            yield _finding("answers", severity, f"{len(lines)} of {len(rows)}: {what}", lines)  # type: ignore[arg-type]


def _occurs(row: Row) -> bool:
    """Whether the number that is the target stands somewhere in the worked solution."""
    from moe_bench.answers import as_number
    from moe_bench.checkers.reference import numbers

    value = as_number(row.target)
    return value is None or any(abs(n) == abs(value) for n in numbers(row.solution))


def _balance(rows: Sequence[Row]) -> Iterator[Finding]:
    """Whether always giving the same answer would do well, in each task whose answers are few."""
    for task, group in _by_task(rows).items():
        counts = Counter(plain(row.target) for row in group)
        answer, most = counts.most_common(1)[0]
        few = 2 <= len(counts) <= 10 and len(group) >= 30 and len(group) / len(counts) >= 5
        if few and _at_least(most, len(group), max(0.5, 1 / len(counts))) < 0.01:
            what = f"{task}: {most} of {len(group)} answers are {answer!r}; a model that always says so is right in {most / len(group):.0%}"
            yield _finding("balance of answers", "warning", what, [])


def _position(rows: Sequence[Row]) -> Iterator[Finding]:
    """Whether the right choice stands more often in some places."""
    from scipy.stats import chisquare

    for task, group in _by_task(rows).items():
        letters = [m[1] for row in group if (m := _LETTER.fullmatch(row.target))]
        if len(letters) < 0.9 * len(group) or len(letters) < 40:
            continue
        places = [chr(ord("A") + i) for i in range(ord(max(letters)) - ord("A") + 1)]
        counts = Counter(letters)
        if len(places) < 2:
            continue
        p = float(chisquare([counts[place] for place in places]).pvalue)
        most = max(places, key=lambda place: counts[place])
        excess = counts[most] / len(letters) - 1 / len(places)
        if p < 0.01 and excess > 0.05:
            share, chance = counts[most] / len(letters), 1 / len(places)
            what = f"{task}: the right choice is {most} in {share:.0%} of {len(letters)}, {chance:.0%} by chance (p = {p:.1e})"
            yield _finding("position of the right choice", "warning", what, [])


def _lengths(rows: Sequence[Row]) -> Iterator[Finding]:
    import numpy as np

    sizes = np.array([len(row.prompt) for row in rows], dtype=float)
    logs = np.log1p(sizes)
    low, high = np.percentile(logs, [25, 75])
    span = max(float(high - low), 0.1)
    lines = [row.line for row, log in zip(rows, logs, strict=True) if not low - 3 * span <= log <= high + 3 * span]
    if lines and len(rows) >= 20:
        what = (
            f"{len(lines)} prompts are far longer or shorter than the others (median {np.median(sizes):.0f} characters)"
        )
        yield _finding("lengths", "warning", what, lines)


def _marks(
    rows: Sequence[Row], check: str, pattern: re.Pattern[str], severity: Severity, what: str
) -> Iterator[Finding]:
    lines = [row.line for row in rows if pattern.search(row.prompt) or pattern.search(row.target)]
    if lines:
        yield _finding(check, severity, f"{len(lines)} of {len(rows)}: {what}", lines)


def _leakage(rows: Sequence[Row], against: Sequence[Row], near: float) -> Iterator[Finding]:
    known = {plain(row.prompt): row.line for row in against}
    shared = [row for row in rows if plain(row.prompt) in known]
    if shared:
        first = shared[0]
        there = known[plain(first.prompt)]
        what = (
            f"{len(shared)} of {len(rows)} prompts also stand in the other file (line {first.line} is its line {there})"
        )
        yield _finding("leakage", "error", what, [row.line for row in shared])
    pairs = sorted(
        near_pairs([r.prompt for r in rows], threshold=near, others=[r.prompt for r in against]), key=lambda p: -p[2]
    )
    if pairs:
        i, j, index = pairs[0]
        lines = sorted({rows[i].line for i, _, _ in pairs})
        nearest = f"line {rows[i].line} and its line {against[j].line}: {index:.2f}"
        what = f"{len(lines)} of {len(rows)} prompts are nearly one of the other file ({nearest})"
        yield _finding("leakage", "warning", what, lines)


def _by_task(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.target:
            groups[row.task or "all"].append(row)
    return groups


def _at_least(hits: int, n: int, share: float) -> float:
    """Probability of so many hits or more, if the share were this."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, n, share))
