"""Levelled tracking, ordering and planning, answered again from the text alone: by replaying, by trying every order, by Bellman and
Ford's relaxation, and by every subset."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations, product

import pytest

from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.rules.tracking import TrackingChecker
from moe_bench.tasks import SUITES, make_items

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
COMPASS = {"north": 1j, "east": 1, "south": -1j, "west": -1}


def _object_swaps(prompt: str) -> str:
    held = dict(re.findall(r"(\w+) has the (\w+) \w+", prompt))
    for a, b in re.findall(r"(\w+) and (\w+) (?:swap|trade)\.", prompt):
        held[a], held[b] = held[b], held[a]
    return held[re.search(r"does (\w+) have", prompt)[1]]  # type: ignore[index]


def _grid_walk(prompt: str) -> str:
    place = 0j
    if faces := re.search(r"faces (\w+)\.", prompt):
        way = complex(COMPASS[faces[1]])
        for turn, n in re.findall(r"(?:turns (left|right) and )?walks (\d+) steps", prompt):
            way *= {"left": 1j, "right": -1j, "": 1}[turn]
            place += int(n) * way
    else:
        place = sum(int(n) * COMPASS[w] for n, w in re.findall(r"(\d+) steps (north|east|south|west)", prompt))
    return str(int(abs(place.real) + abs(place.imag)))


def _moved_counts(prompt: str) -> str:
    held = {c: int(n) for c, n in re.findall(r"[Tt]he (\w+) \w+ holds (\d+)", prompt)}
    for half, n, a, b in re.findall(
        r"(?:(Half) of the \w+ in|(\d+) \w+ are moved from) the (\w+) \w+ (?:are moved )?to the (\w+)", prompt
    ):
        moved = held[a] // 2 if half else int(n)
        assert not half or held[a] % 2 == 0
        held[a], held[b] = held[a] - moved, held[b] + moved
        assert min(held.values()) >= 0
    return str(held[re.search(r"(?:in|does) the (\w+) \w+ (?:now|hold)", prompt)[1]])  # type: ignore[index]


def _rank_from_clues(prompt: str) -> str:
    up = {"taller", "older", "faster", "heavier"}
    pairs = [(a, b) if w in up else (b, a) for a, w, b in re.findall(r"(\w+) is (\w+) than (\w+)\.", prompt)]
    people = sorted({p for pair in pairs for p in pair})
    (order,) = [o for o in permutations(people) if all(o.index(a) < o.index(b) for a, b in pairs)]
    *_, nth, word = re.search(r"the (?:(\w+) )?(\w+(?:est|er))\b(?: of them)?[?.]$", prompt).groups()  # type: ignore[union-attr]
    from_top = word.startswith(("tall", "old", "fast", "heav"))
    place = ORDINALS.index(nth) if nth else 0
    return order[place if from_top else -1 - place]


def _sort_records(prompt: str) -> str:
    if numbers := re.search(r": ([\d, ]+)\.$", prompt):
        values = [int(n) for n in numbers[1].split(", ")]
        return ", ".join(map(str, sorted(values, reverse="from the largest" in prompt)))
    records = [
        (p, int(n), int(s or 0)) for p, n, s in re.findall(r"(\w+) has (\d+) points?(?: in (\d+) seconds)?", prompt)
    ]
    sign = -1 if "the most points first" in prompt else 1
    if "alphabetical" not in prompt:
        assert len({(n, s) for _, n, s in records}) == len(records), "no tie is left open"
    return ", ".join(p for p, *_ in sorted(records, key=lambda r: (sign * r[1], r[2], r[0])))


def _seated(clue: str, row: tuple[str, ...]) -> bool:
    names = [row.index(n) for n in re.findall(r"[A-Z]\w+", clue) if n in row]
    a, b = names[0], names[-1]
    if "seat from the left" in clue:
        return ORDINALS[a] in clue.split()
    tests: dict[str, Callable[[], bool]] = {
        "does not sit at an end": lambda: a not in (0, len(row) - 1),
        "sits at an end": lambda: a in (0, len(row) - 1),
        "somewhere to the left": lambda: a < b,
        "directly to the left": lambda: b - a == 1,
        "does not sit next to": lambda: abs(a - b) != 1,
        "sits next to": lambda: abs(a - b) == 1,
        "exactly one seat between": lambda: abs(a - b) == 2,
    }
    (test,) = [t for words, t in tests.items() if words in clue]
    return test()


def _row_of_seats(prompt: str) -> str:
    first, *clues, asked = re.split(r"(?<=\.) ", prompt)
    people = re.findall(r"[A-Z]\w+", first.split(" sit in")[0])
    (row,) = [r for r in permutations(people) if all(_seated(c, r) for c in clues)]
    for left_out in range(len(clues)):
        rest = clues[:left_out] + clues[left_out + 1 :]
        assert sum(all(_seated(c, r) for c in rest) for r in permutations(people)) > 1, "every statement is needed"
    return row[ORDINALS.index(re.search("|".join(ORDINALS), asked)[0])]  # type: ignore[index]


def _cheapest_route(prompt: str) -> str:
    roads = [(a, b, int(n)) for a, b, n in re.findall(r"([A-Z]\w+) and ([A-Z]\w+) \((\d+) km\)", prompt)]
    begin, end = re.search(r"from (\w+) to (\w+)", prompt).groups()  # type: ignore[union-attr]
    far = {begin: 0}
    for _ in roads:
        for a, b, n in [*roads, *((b, a, n) for a, b, n in roads)]:
            if a in far:
                far[b] = min(far.get(b, 10**6), far[a] + n)
    return str(far[end])


def _task_schedule(prompt: str) -> str:
    told = re.findall(r"([A-Z]\w+) takes (\d+) hours(?: and can begin when ([\w, ]+) (?:is|are) done)?\.", prompt)
    jobs = {name.lower(): (int(n), re.findall(r"\w+ing", after)) for name, n, after in told}
    done: dict[str, int] = {}
    hour = 0
    while len(done) < len(jobs):  # hour by hour, every job that can begin goes on
        for job, (_, after) in jobs.items():
            if job not in done and all(done.get(a, 10**6) <= hour for a in after):
                done[job] = hour + jobs[job][0]
        hour += 1
    return str(max(done.values()))


def _best_load(prompt: str) -> str:
    limit = int(re.search(r"can carry (\d+) kg", prompt)[1])  # type: ignore[index]
    goods = [(int(w), int(v)) for w, v in re.findall(r"of (\d+) kg that is worth (\d+) dollars", prompt)]
    loads = (list(zip(taken, goods, strict=True)) for taken in product((0, 1), repeat=len(goods)))
    return str(max(sum(t * v for t, (_, v) in load) for load in loads if sum(t * w for t, (w, _) in load) <= limit))


SOLVERS: dict[str, Callable[[str], str]] = {
    "object_swaps": _object_swaps,
    "grid_walk": _grid_walk,
    "moved_counts": _moved_counts,
    "rank_from_clues": _rank_from_clues,
    "sort_records": _sort_records,
    "row_of_seats": _row_of_seats,
    "cheapest_route": _cheapest_route,
    "task_schedule": _task_schedule,
    "best_load": _best_load,
}


def test_every_family_is_proved() -> None:
    assert SOLVERS.keys() == {*SUITES["tracking"], *SUITES["ordering"], *SUITES["planning"]}


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_right(name: str) -> None:
    for item in make_items([name], count_per_family=60, seed=7):
        assert SOLVERS[name](item.prompt) == item.target, item


@pytest.mark.parametrize("name", ["grid_walk", "moved_counts", "cheapest_route", "task_schedule", "best_load"])
def test_written_calculations_hold(name: str) -> None:
    for item in make_items([name], count_per_family=50, seed=3):
        for left, right in re.findall(r"(?<![\d+] )(\d+(?: [-+*/] \d+)+) = (\d+)\b", item.solution):
            assert eval(left) == int(right), item


def test_the_tracking_checker_verifies_every_swap() -> None:
    for item in make_items(["object_swaps"], count_per_family=50, seed=4):
        steps = item.solution.splitlines()
        assert all(s.status is Status.VALID for s in assess(item.prompt, steps, [TrackingChecker()]).steps), item
        solved = TrackingChecker().solve(item.prompt)
        assert solved is not None
        assert solved.split()[0] == item.target, item
