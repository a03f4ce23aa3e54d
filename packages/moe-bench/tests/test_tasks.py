"""The generated problems: answers checked by solving them again another way, splits that cannot overlap."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from moe_bench import BenchError
from moe_bench.tasks import FAMILIES, NEW_TO_EMBEDDED, SPLITS, SUITES, make_items, split_of

NUMBER = re.compile(r"-?\d+")


def numbers(text: str) -> list[int]:
    return [int(n) for n in NUMBER.findall(text)]


def _solve_change(prompt: str) -> str:
    count, price, paid = numbers(prompt)
    return str(paid - count * price)


def _solve_two_step(prompt: str) -> str:
    a, b, c = numbers(prompt)
    return str(next(x for x in range(1000) if a * x + b == c))


def _solve_units(prompt: str) -> tuple[float, float]:
    metres = {"m": 1, "cm": 0.01, "mm": 0.001, "km": 1000, "kg": 1, "g": 0.001, "h": 3600, "min": 60, "s": 1}
    sides = re.findall(r"(\d+) (\w+)", prompt)
    return tuple(int(n) * metres[unit] for n, unit in sides)  # type: ignore[return-value]


def _solve_compare(prompt: str) -> str:
    left, right = _solve_units(prompt)
    sides = re.findall(r"\d+ \w+", prompt)
    return sides[0] if left > right else sides[1]


def _solve_story(prompt: str) -> str:
    a, b = numbers(prompt)
    return str(a + b if re.search("finds|buys|gets", prompt) else a - b)


def _solve_deduction(prompt: str) -> str:
    rules = dict(re.findall(r"Every (\w+) is (?:a )?(\w+)\.", prompt))
    start, asked = re.search(r"(\w+) is a (\w+)\. Can we tell that \1 is (\w+)", prompt).groups()[1:]  # type: ignore[union-attr]
    while start in rules:
        start = rules[start]
    return "yes" if start == asked else "no"


def _solve_tracking(prompt: str) -> str:
    held = dict(re.findall(r"(\w+) has (\w+)[,.]", prompt))
    for a, b in re.findall(r"(\w+) and (\w+) swap", prompt):
        held[a], held[b] = held[b], held[a]
    return held[re.search(r"does (\w+) have", prompt).group(1)]  # type: ignore[union-attr]


DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _solve_weekday(prompt: str) -> str:
    return DAYS[(DAYS.index(re.search("|".join(DAYS), prompt)[0]) + numbers(prompt)[0]) % 7]  # type: ignore[index]


def _solve_exclusion(prompt: str) -> str:
    listed, told = prompt.split(", one each.")
    left = set(re.findall(r"red|blue|green|white|black|pink", listed)) - set(re.findall(r"picked (\w+)\.", told))
    return left.pop()


SOLVERS = {
    "addition": lambda p: str(sum(numbers(p))),
    "subtraction": lambda p: str(abs(numbers(p.replace("-", " "))[0] - numbers(p.replace("-", " "))[1])),
    "multiplication": lambda p: str(numbers(p)[0] * numbers(p)[1]),
    "division": lambda p: str(max(numbers(p)) // min(numbers(p))),
    "one_step_story": _solve_story,
    "groups_story": lambda p: str(numbers(p)[0] * numbers(p)[1]),
    "equation_add": lambda p: str(numbers(p)[1] - numbers(p)[0]),
    "equation_two_step": _solve_two_step,
    "change": _solve_change,
    "sequence": lambda p: str(2 * numbers(p)[3] - numbers(p)[2]),
    "comparison": lambda p: str((max if "larger" in p else min)(numbers(p))),
    "sort_ascending": lambda p: " ".join(map(str, sorted(numbers(p)))),
    "sort_descending": lambda p: " ".join(map(str, sorted(numbers(p), reverse=True))),
    "units": None,
    "unit_comparison": _solve_compare,
    "counting": lambda p: str(p.split(".")[0].split().count(re.search(r"does (\w+) stand", p)[1])),
    "who_has_more": lambda p: max(re.findall(r"(\w+) has (\d+)", p), key=lambda pair: int(pair[1]))[0],
    "deduction": _solve_deduction,
    "negation": lambda p: "no" if "is not" in p else "yes",
    "tracking": _solve_tracking,
    "exclusion": _solve_exclusion,
    "weekday": _solve_weekday,
}


def test_every_family_has_a_second_solver() -> None:
    assert SOLVERS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", [n for n, solve in SOLVERS.items() if solve])
def test_answers_are_right(name: str) -> None:
    for item in make_items([name], count_per_family=40, seed=7):
        assert SOLVERS[name](item.prompt) == item.target, item  # type: ignore[operator, misc]


def test_unit_conversions_are_right() -> None:
    per = {("m", "cm"): 100, ("km", "m"): 1000, ("kg", "g"): 1000, ("h", "min"): 60, ("min", "s"): 60, ("cm", "mm"): 10}
    for item in make_items(["units"], count_per_family=40, seed=7):
        units = re.findall(r"\b(km|kg|cm|mm|min|m|h|s|g)\b", item.prompt)
        big, small = (units[1], units[0]) if item.prompt.startswith("How") else units
        assert int(item.target) == numbers(item.prompt)[0] * per[big, small]


@pytest.mark.parametrize("name", FAMILIES)
def test_written_equations_hold(name: str) -> None:
    for item in make_items([name], count_per_family=30, seed=3):
        for left, right in re.findall(r"(?<![\w*])(\d+[-+*/]\d+)=(\d+)(?![\d*])", item.solution):
            assert eval(left) == int(right), item
        for a, sign, b in re.findall(r"(\d+)([<>])(\d+)", item.solution):
            assert (int(a) < int(b)) == (sign == "<"), item


def test_splits_are_disjoint_whatever_the_seed_and_a_tenth_each() -> None:
    ids = {
        s: {i.id for seed in (0, 1) for i in make_items(FAMILIES, count_per_family=25, seed=seed, split=s)}
        for s in SPLITS
    }
    assert not ids["train"] & ids["test"]
    assert not ids["train"] & ids["validation"]
    assert not ids["test"] & ids["validation"]
    family = FAMILIES["comparison"]
    from moe_bench.item import Item

    shares = Counter()
    for seed in range(3000):
        problem = family.generate(Random(seed))
        shares[split_of(Item(prompt=problem.prompt, target=problem.answer, task="x").id)] += 1
    assert shares["test"] == pytest.approx(300, abs=70)
    assert shares["validation"] == pytest.approx(300, abs=70)


def test_items_are_reproducible_distinct_and_labelled() -> None:
    items = make_items(SUITES["composition"], count_per_family=30, seed=5)
    assert items == make_items(SUITES["composition"], count_per_family=30, seed=5)
    assert len({i.id for i in items}) == len(items) == 30 * len(NEW_TO_EMBEDDED)
    assert Counter(i.task for i in items) == dict.fromkeys(NEW_TO_EMBEDDED, 30)
    assert all(i.operation == FAMILIES[i.task].operation and i.solution for i in items)


def test_bad_requests_name_what_is_wrong() -> None:
    with pytest.raises(BenchError, match="'nothing' is unknown"):
        make_items(["nothing"], count_per_family=1, seed=0)
    with pytest.raises(BenchError, match="not one of train"):
        make_items(["addition"], count_per_family=1, seed=0, split="dev")
    with pytest.raises(BenchError, match="ask for fewer"):
        make_items(["weekday"], count_per_family=5000, seed=0)
