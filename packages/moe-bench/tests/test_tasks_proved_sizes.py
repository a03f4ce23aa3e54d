"""Levelled units and sets, answered again from the text alone: by Python's clock, by exact sizes in the smallest unit, by set
operations, and by solving for the regions of overlapping groups."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import product

import pytest

from moe_bench.tasks import SUITES, make_items

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NANO = {
    "km": 10**12,
    "m": 10**9,
    "cm": 10**7,
    "mm": 10**6,
    "t": 10**6,
    "kg": 10**3,
    "g": 1,
    "litres": 10**3,
    "cl": 10,
    "ml": 1,
}
UNITS = "|".join(sorted(NANO, key=len, reverse=True))


def _elapsed_minutes(prompt: str) -> int:
    times = re.findall(r"at (\d+):(\d+)(?: (?:on (\w+)|the (next) day))?", prompt)
    if not times:
        hours, minutes = (sum(map(int, re.findall(rf"(\d+) {unit}", prompt))) for unit in ("hour", "minute"))
        return hours * 60 + minutes
    monday = datetime(2024, 1, 1)
    (h, m, day, _), (h2, m2, day2, following) = times
    begin = monday + timedelta(days=DAYS.index(day) if day else 0, hours=int(h), minutes=int(m))
    days = DAYS.index(day2) if day2 else (begin.day if following else begin.day - 1)
    end = monday + timedelta(days=days, hours=int(h2), minutes=int(m2))
    pause = re.search(r"break of (\d+) minutes", prompt)
    return int((end - begin).total_seconds()) // 60 - (int(pause[1]) if pause else 0)


def _measure_total(prompt: str) -> int:
    if simple := re.search(rf"(\d+) ({UNITS})\b.*?(?:to|in) ({UNITS})\.$", prompt):
        n, unit, asked = simple.groups()
        return int(n) * NANO[unit] // NANO[asked]
    if simple := re.search(rf"^How many ({UNITS}) are (\d+) ({UNITS})\?", prompt):
        asked, n, unit = simple.groups()
        return int(n) * NANO[unit] // NANO[asked]
    has, _, taken = prompt.partition(" takes off ")
    total = Fraction(sum(int(n) * NANO[u] for n, u in re.findall(rf"(\d+) ({UNITS})\b", has)))
    for count, n, unit in re.findall(rf"(\d+) \w+ of (\d+) ({UNITS}) each", taken):
        total -= int(count) * int(n) * NANO[unit]
    for n, unit in re.findall(rf"(0\.\d+) ({UNITS})\b", taken):
        total -= Fraction(n) * NANO[unit]
    assert total > 0
    total /= NANO[re.search(rf"How many ({UNITS}) ", prompt)[1]]  # type: ignore[index]
    assert total == int(total)
    return int(total)


def _speed_distance(prompt: str) -> int:
    legs = re.findall(
        r"(?:(\d+) (hours?|minutes|km) at (\d+) km per hour|at (\d+) km per hour for (\d+) minutes)", prompt
    )
    distance = hours = Fraction(0)
    for n, what, speed, speed_2, minutes in legs:
        v = int(speed or speed_2)
        time = (
            Fraction(int(n), v) if what == "km" else Fraction(int(n or minutes), 1 if what.startswith("hour") else 60)
        )
        distance, hours = distance + v * time, hours + time
    answer = hours if "How many hours" in prompt else distance / hours if "average" in prompt else distance
    assert answer == int(answer)
    return int(answer)


def _numbers(text: str) -> set[int]:
    return {int(n) for n in re.findall(r"\d+", text)}


def _set_expression(prompt: str) -> set[int]:
    sets = {n: _numbers(m) for n, m in re.findall(r"([A-D]) = \{([\d, ]+)\}", prompt)}
    asked = prompt.split("}.")[1]
    if words := re.search(r"in (both )?([A-D]) (and|or in|but not in) ([A-D])", asked):
        _, a, how, b = words.groups()
        return {"and": sets[a] & sets[b], "or in": sets[a] | sets[b], "but not in": sets[a] - sets[b]}[how]
    code = re.search(
        r"[(A-D][()A-D ∪∩\\]*", asked.replace("Find ", "").replace("What is ", "").replace("List the numbers in ", "")
    )
    return eval(code[0].replace("∪", "|").replace("∩", "&").replace("\\", "-"), {}, sets)  # type: ignore[index, no-any-return]


def _overlap_count(prompt: str) -> int:
    """By regions: for three groups every number in all three that leaves no region below 0 is tried against what is told."""
    total = re.search(r"^Of (\d+)", prompt)
    n = [int(x) for x in re.findall(r"\d+", re.sub(r"^Of (\d+|some) ", "", prompt))]
    if "both" in prompt:
        a, b, ab = n
        regions = {"exactly one": a - ab + b - ab, "at least one": a + b - ab}
        if "neither" in prompt:
            return int(total[1]) - regions["at least one"]  # type: ignore[index]
        return next(v for words, v in regions.items() if words in prompt)
    a, b, c, ab, ac, bc, last = n
    found = set()
    for abc in range(min(ab, ac, bc) + 1):
        two = ab + ac + bc - 3 * abc
        ones = [a - ab - ac + abc, b - ab - bc + abc, c - ac - bc + abc]
        if min(ones) < 0:
            continue
        union = sum(ones) + two + abc
        if total is None:
            found |= {union} if abc == last else set()
        elif union + last == int(total[1]):
            found.add(sum(ones))
    (answer,) = found
    return answer


def _meets(words: str, x: int) -> bool:
    if m := re.fullmatch(r"(greater|less) than (\d+)", words):
        return x > int(m[2]) if m[1] == "greater" else x < int(m[2])
    if m := re.fullmatch(r"multiples of (\d+)", words):
        return x % int(m[1]) == 0
    if m := re.fullmatch(r"numbers whose digits add up to more than (\d+)", words):
        return x // 10 + x % 10 > int(m[1])
    return {"even": x % 2 == 0, "odd": x % 2 == 1}[words]


def _number_filter(prompt: str) -> set[int]:
    told, words = re.search(r"numbers ([\d, ]+?),? (?:are|list those that are) (.+)[?.]$", prompt).groups()  # type: ignore[union-attr]
    if m := re.fullmatch(r"both (.+) and (.+), but not (.+)", words):
        return {x for x in _numbers(told) if _meets(m[1], x) and _meets(m[2], x) and not _meets(m[3], x)}
    if m := re.fullmatch(r"both (.+) and (.+)", words):
        return {x for x in _numbers(told) if _meets(m[1], x) and _meets(m[2], x)}
    if m := re.fullmatch(r"(.+) or (.+) or both", words):
        return {x for x in _numbers(told) if _meets(m[1], x) or _meets(m[2], x)}
    if m := re.fullmatch(r"(.+) and moreover either (.+) or (.+), but not both", words):
        return {x for x in _numbers(told) if _meets(m[1], x) and _meets(m[2], x) is not _meets(m[3], x)}
    return {x for x in _numbers(told) if _meets(words, x)}


SOLVERS: dict[str, Callable[[str], int | set[int]]] = {
    "elapsed_minutes": _elapsed_minutes,
    "measure_total": _measure_total,
    "speed_distance": _speed_distance,
    "set_expression": _set_expression,
    "overlap_count": _overlap_count,
    "number_filter": _number_filter,
}


def test_every_family_is_proved() -> None:
    assert SOLVERS.keys() == {*SUITES["units"], *SUITES["sets"]}


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_right(name: str) -> None:
    for item in make_items([name], count_per_family=150, seed=7):
        found = SOLVERS[name](item.prompt)
        assert found == (_numbers(item.target) if isinstance(found, set) else int(item.target)), item


@pytest.mark.parametrize("name", ["elapsed_minutes", "measure_total", "speed_distance", "overlap_count"])
def test_written_calculations_hold(name: str) -> None:
    for item in make_items([name], count_per_family=100, seed=3):
        for left, right in re.findall(r"(?:^|: )(\d[\d.]*(?: [-+*/] \d+)+) = (\d+)$", item.solution, re.MULTILINE):
            assert eval(left) == pytest.approx(int(right), abs=1e-9), item


def test_written_sets_are_right() -> None:
    for item in make_items(["set_expression"], count_per_family=100, seed=3):
        for left, members in re.findall(r"^(.+) = (\{.*\})$", item.solution, re.MULTILINE):
            sets = item.prompt.split("}.")[0] + "}."
            assert _set_expression(f"{sets} Find {left}.") == _numbers(members), item


def test_conditions_are_told_apart() -> None:
    """The second solver knows every condition: it is right on each of the first hundred numbers."""
    for words, x in product(("even", "odd", "multiples of 7", "greater than 50", "less than 50"), range(1, 101)):
        rule = {
            "even": x % 2 == 0,
            "odd": x % 2 != 0,
            "multiples of 7": x in range(7, 101, 7),
            "greater than 50": x - 50 > 0,
        }
        assert _meets(words, x) == rule.get(words, x < 50)
