"""Levelled comparison, deduction and cases, answered again from the text alone: by exact fractions, rules applied forwards, the
prover, and by trying everything."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations, product

import pytest

from moe_bench.checkers.deduction import DeductionChecker
from moe_bench.logic import Verdict
from moe_bench.tasks import SUITES, make_items


def _relative_amounts(prompt: str) -> str:
    values = {p: int(n) for p, n in re.findall(r"(\w+) has (\d+) \w+\.", prompt)}
    relations = re.findall(r"(\w+) has (?:(\d+) (more|fewer)|(twice|half) as many) \w+ (?:than|as) (\w+)\.", prompt)
    for _ in relations:
        for who, n, way, times, other in relations:
            if other in values:
                have = Fraction(values[other])
                value = {"more": have + int(n or 0), "fewer": have - int(n or 0), "twice": have * 2, "half": have / 2}[
                    way or times
                ]
                assert value == int(value)
                values[who] = int(value)
    order = sorted(values, key=lambda p: values[p])
    assert len(set(values.values())) == len(order)
    if re.search("second most", prompt):
        return order[-2]
    return order[0] if "few" in prompt.split("has")[-1] else order[-1]


def _largest_fraction(prompt: str) -> str:
    options = re.findall(r"\((\w)\) (\S+)", prompt)
    values = {k: Fraction(v[:-1]) / 100 if v.endswith("%") else Fraction(v) for k, v in options}
    pick = max if "larg" in prompt else min
    best = pick(values.values())
    (letter,) = [k for k, v in values.items() if v == best]
    return letter


def _inequality_claim(prompt: str) -> str:
    left, word, right = re.search(r"([\d+* -]+?) (?:is )?(greater|less) than ([\d+* -]+)\?", prompt).groups()  # type: ignore[union-attr]
    a, b = eval(left), eval(right)
    return "yes" if (a > b if word == "greater" else a < b) else "no"


def _closure(prompt: str) -> dict[str, bool]:
    """What follows of the one person, by rules applied forwards until nothing new comes."""
    person = re.search(r"([A-Z]\w+) is a \w+\.", prompt)[1]  # type: ignore[index]
    told = re.split(r"(?:Can we|Does it|True, false|Unknown, true)", prompt)[0]
    known = dict.fromkeys(re.findall(rf"{person} is (?:a )?(\w+)\.", told), True)
    rules = [((a,), b, True) for a, b in re.findall(r"Every (\w+) is (?:a )?(\w+)\.", told)]
    rules += [((a,), b, False) for a, b in re.findall(r"No (\w+) is (\w+)\.", told)]
    rules += [
        ((a, b), c, not no)
        for a, b, no, c in re.findall(r"If someone is (\w+) and (\w+) then they are (not )?(\w+)\.", told)
    ]
    for _ in rules:
        for body, head, sign in rules:
            if all(known.get(b) is True for b in body):
                assert known.setdefault(head, sign) is sign
    return known


def _rule_chain(prompt: str) -> str:
    asked = re.search(r"that \w+ is (\w+)\?", prompt)[1]  # type: ignore[index]
    return "yes" if _closure(prompt).get(asked) else "no"


def _three_valued_rules(prompt: str) -> str:
    no, asked = re.search(r"(?:unknown|false): \w+ is (not )?(\w+)\.", prompt).groups()  # type: ignore[union-attr]
    value = _closure(prompt).get(asked)
    return "unknown" if value is None else "true" if value != bool(no) else "false"


def _suspects(prompt: str) -> str:
    names = re.findall(r"[A-Z]\w+", re.split(r" (?:broke|ate|took|hid|left|spilled|rang) ", prompt)[0])
    said = re.findall(r'(\w+) says: "It was ([^"]+)\."', prompt)
    assert [s for s, _ in said] == names
    number = re.search(r"Exactly (\d+)", prompt)
    true = int(number[1]) if number else {"Both": 2, "Neither": 0}[re.search("Both|Neither", prompt)[0]]  # type: ignore[index]

    def holds(speaker: str, text: str, culprit: str) -> bool:
        named = [speaker if n == "me" else n for n in re.findall(r"me\b|[A-Z]\w+", text)]
        return (culprit in named) != bool(re.match("not|neither", text))

    (culprit,) = [c for c in names if sum(holds(s, t, c) for s, t in said) == true]
    return culprit


def _hat_grid(prompt: str) -> str:
    told, clues = prompt.split(" each wear a hat: ")
    people = re.findall(r"[A-Z]\w+", told)
    listed, clues = clues.split(".", 1)
    colours = re.findall(r"is (\w+)", listed)
    asked = re.findall("|".join(people), prompt)[-1]
    answers = set()
    for row in permutations(colours):
        worn = dict(zip(people, row, strict=True))
        if all(worn[p] != c for p, c in re.findall(r"(\w+) does not wear the (\w+) hat", clues)) and all(
            worn[p] in (a, b) for p, a, b in re.findall(r"(\w+) wears the (\w+) or the (\w+) hat", clues)
        ):
            answers.add(worn[asked])
    (answer,) = answers
    return answer


def _ways_to_pay(prompt: str) -> str:
    *values, total = map(int, re.findall(r"\d+", prompt))
    counts = product(*(range(total // v + 1) for v in values[1:]))  # the first is what is left, or is not
    rests = (total - sum(n * v for n, v in zip(c, values[1:], strict=True)) for c in counts)
    return str(sum(rest >= 0 and rest % values[0] == 0 for rest in rests))


SOLVERS: dict[str, Callable[[str], str]] = {
    "relative_amounts": _relative_amounts,
    "largest_fraction": _largest_fraction,
    "inequality_claim": _inequality_claim,
    "rule_chain": _rule_chain,
    "three_valued_rules": _three_valued_rules,
    "suspects": _suspects,
    "hat_grid": _hat_grid,
    "ways_to_pay": _ways_to_pay,
}


def test_every_family_is_proved() -> None:
    assert SOLVERS.keys() == {*SUITES["comparison"], *SUITES["deduction"], *SUITES["cases"]}


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_right(name: str) -> None:
    for item in make_items([name], count_per_family=100, seed=7):
        assert SOLVERS[name](item.prompt) == item.target, item


@pytest.mark.parametrize("name", ["relative_amounts", "inequality_claim", "ways_to_pay"])
def test_written_calculations_hold(name: str) -> None:
    for item in make_items([name], count_per_family=50, seed=3):
        for left, right in re.findall(r"(?:^|[:,] )(\d[\d+*/ -]*) = (\d+)\b", item.solution, re.MULTILINE):
            assert eval(left) == int(right), item
        for chain in re.findall(r"^\d+(?: [<>] \d+)+$", item.solution, re.MULTILINE):
            assert eval(chain), item


def test_the_prover_agrees() -> None:
    words = {Verdict.PROVED: "true", Verdict.DISPROVED: "false", Verdict.UNKNOWN: "unknown"}
    for item in make_items(["three_valued_rules"], count_per_family=60, seed=5):
        verdict = DeductionChecker().solve(item.prompt)
        assert verdict is not None, item
        assert words[verdict] == item.target, item
    for item in make_items(["rule_chain"], count_per_family=60, seed=5):
        verdict = DeductionChecker().solve(item.prompt.replace("Does it follow", "Can we tell"))
        assert (verdict is Verdict.PROVED) == (item.target == "yes"), item
