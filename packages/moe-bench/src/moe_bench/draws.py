"""What several answers to one item come to: the share that is right, whether any is, whether the one given most often is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCORES = ("mean", "any", "majority")
"""mean: the share of right answers (expected accuracy of one). any: pass@k for k answers. majority: self-consistency (Wang et al. 2022,
arXiv:2203.11171), the right or wrong of the answer that is given most often, the earliest of those that are given as often."""

Line = Mapping[str, Any]
"""An answer as it stands in samples.jsonl."""


def score_of(answers: Sequence[Line], score: str) -> float:
    """The score of an item from 0 to 1.

    Args:
        answers: to one item, in the order of their numbers.
        score: of `SCORES`.
    """
    right = [bool(answer["correct"]) for answer in answers]
    if score == "any":
        return float(any(right))
    return float(majority(answers)) if score == "majority" else sum(right) / len(right)


def majority(answers: Sequence[Line]) -> bool:
    """Whether the answer that is given most often is right; what has no answer has no vote.

    Numbers, choices and the like are one answer where they are equal; formulas where they are written alike.
    """
    groups: list[list[Line]] = []
    for answer in answers:
        if answer["answer"] is None:
            continue
        group = next((g for g in groups if _same(g[0], answer)), None)
        if group is None:
            groups.append([answer])
        else:
            group.append(answer)
    return bool(groups) and bool(max(groups, key=len)[0]["correct"])


def _same(one: Line, other: Line) -> bool:
    if one["answer"] == other["answer"]:
        return True
    from moe_bench.answers import judge  # here, so that the command line knows the scores without it

    kind = one.get("kind") or "text"
    return kind not in {"expression", "text"} and judge(str(other["answer"]), str(one["answer"]), kind).correct
