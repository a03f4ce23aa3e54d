"""Planning in levels: the shortest way, when work is done, what is worth taking along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import counted, listed, once

_TOWNS = (
    "Alder",
    "Birch",
    "Cedar",
    "Dover",
    "Elm",
    "Fern",
    "Grove",
    "Hazel",
    "Iver",
    "Juniper",
    "Linden",
    "Maple",
    "Oak",
    "Poplar",
    "Rowan",
    "Thorn",
)
_SIZES = (3, 4, 5, 6, 7)


def cheapest_route(rng: Random, level: int) -> Problem:
    """The length of the shortest way between two towns; the way leads over more towns at higher levels."""
    count, over = _SIZES[level - 1], (2, 2, 3, 3, 4)[level - 1]
    towns = rng.sample(_TOWNS, count)
    while True:
        pairs = list(combinations(towns, 2))
        roads = dict.fromkeys(rng.sample(pairs, min(len(pairs), count + (0, 0, 1, 2, 3)[level - 1])), 0)
        roads = {pair: rng.randint(2, 12 if level == 1 else 30) for pair in roads}
        steps, reached = _shortest(towns[0], roads)
        if towns[-1] not in reached:
            continue
        path = [towns[-1]]
        while path[-1] != towns[0]:
            path.append(reached[path[-1]][1])
        if level == 1 or len(path) - 1 >= over:
            break
    distance = reached[towns[-1]][0]
    shown = [step for town, step in steps if reached[town][0] <= distance]
    told = listed([f"{a} and {b} ({n} km)" for (a, b), n in _shuffled(rng, roads)])
    ask = rng.choice(
        ["How long is the shortest way from {a} to {b}, in km?", "What is the smallest number of km from {a} to {b}?"]
    )
    prompt = f"Roads join {told}. {ask.format(a=towns[0], b=towns[-1])}"
    return Problem(
        prompt=prompt,
        solution="\n".join(shown),
        answer=str(distance),
        distractors=len(roads) - len(path) + 1,
    )


def _shuffled(rng: Random, roads: Mapping[tuple[str, str], int]) -> list[tuple[tuple[str, str], int]]:
    """The roads in any order and direction."""
    turned = [(pair if rng.random() < 0.5 else (pair[1], pair[0]), n) for pair, n in roads.items()]
    rng.shuffle(turned)
    return turned


def _shortest(
    begin: str, roads: Mapping[tuple[str, str], int]
) -> tuple[list[tuple[str, str]], dict[str, tuple[int, str]]]:
    """Dijkstra (1959): towns in the order of their distance, each with a step that says it; of each its distance and the town before."""
    reached = {begin: (0, "")}
    steps: list[tuple[str, str]] = []
    while True:
        onward = [
            (reached[a][0] + n, b, a, n)
            for pair, n in roads.items()
            for a, b in (pair, pair[::-1])
            if a in reached and b not in reached
        ]
        if not onward:
            return steps, reached
        total, town, before, n = min(onward)
        steps.append((town, f"{town} by {before}: {reached[before][0]} + {n} = {total}"))
        reached[town] = (total, before)


_JOBS = (
    "digging",
    "painting",
    "wiring",
    "roofing",
    "plastering",
    "cleaning",
    "testing",
    "packing",
    "sawing",
    "drilling",
    "measuring",
    "tiling",
)


def task_schedule(rng: Random, level: int) -> Problem:
    """When all work is done, where jobs wait for others and otherwise go on side by side."""
    count = _SIZES[level - 1] - 1
    jobs = rng.sample(_JOBS, count)
    hours = {job: rng.randint(2, 12) for job in jobs}
    while True:
        waits: dict[str, list[str]] = {jobs[0]: []}
        for number, job in enumerate(jobs[1:], start=1):
            free = level >= 3 and rng.random() < 0.25
            waits[job] = [] if free else sorted(rng.sample(jobs[:number], min(number, rng.choice([1, 1, 2]))))
        ends, steps = _ends(jobs, hours, waits)
        chain = max(ends.values())
        if count == 2 or (chain < sum(hours.values()) and sum(map(bool, waits.values())) >= count // 2):
            break
    if count > 2 or list(ends.values())[-1] != chain:
        steps.append(f"The last ends at {chain}.")
    told = [
        f"{once(job)} takes {counted(hours[job], 'hours')}"
        + (
            f" and can begin when {listed(waits[job])} {'is' if len(waits[job]) == 1 else 'are'} done."
            if waits[job]
            else "."
        )
        for job in (rng.sample(jobs, count) if level >= 4 else jobs)
    ]
    ask = rng.choice(
        [
            "After how many hours can everything be done?",
            "What is the smallest number of hours in which all of it can be done?",
        ]
    )
    begin = rng.choice(["There are enough workers to do several jobs at once.", "Jobs may be done at the same time."])
    return Problem(prompt=f"{begin} {' '.join(told)} {ask}", solution="\n".join(steps), answer=str(chain))


def _ends(
    jobs: Sequence[str], hours: Mapping[str, int], waits: Mapping[str, Sequence[str]]
) -> tuple[dict[str, int], list[str]]:
    """When each job ends, and a step for each."""
    ends: dict[str, int] = {}
    steps = []
    for job in jobs:
        begin = max((ends[other] for other in waits[job]), default=0)
        ends[job] = begin + hours[job]
        steps.append(f"{once(job)} begins at {begin} and ends at {begin} + {hours[job]} = {ends[job]}")
    return ends, steps


_GOODS = (
    "lamp",
    "clock",
    "vase",
    "radio",
    "kettle",
    "mirror",
    "drum",
    "globe",
    "stove",
    "tent",
    "chair",
    "statue",
    "printer",
    "bicycle",
)


def best_load(rng: Random, level: int) -> Problem:
    """The greatest worth that fits a weight; taking what is worth most first misleads from level 3 on."""
    count = _SIZES[level - 1] - 1
    goods = rng.sample(_GOODS, count)
    while True:
        weight = {g: rng.randint(2, 15) for g in goods}
        worth = {g: rng.randint(3, 40) for g in goods}
        limit = rng.randint(max(weight.values()), max(max(weight.values()), sum(weight.values()) - 1))
        fitting = [s for n in range(1, count + 1) for s in combinations(goods, n) if sum(weight[g] for g in s) <= limit]
        full = [s for s in fitting if not any(set(s) < set(t) for t in fitting)]
        best = max(sum(worth[g] for g in s) for s in full)
        if len(full) > 1 and len(full) <= 10 and (level < 3 or _greedy(goods, weight, worth, limit) < best):
            break
    steps = []
    for chosen in full:
        heavy, dear = [str(weight[g]) for g in chosen], [str(worth[g]) for g in chosen]
        if len(chosen) == 1:
            steps.append(f"{once(chosen[0])}: {heavy[0]} kg, worth {dear[0]}")
        else:
            steps.append(
                f"{once(listed(chosen))}: {' + '.join(heavy)} = {sum(map(int, heavy))} kg, worth {' + '.join(dear)} = {sum(map(int, dear))}"
            )
    steps.append(f"The most is {best}.")
    told = listed([f"a {g} of {weight[g]} kg that is worth {worth[g]} dollars" for g in goods])
    ask = rng.choice(
        [
            "What is the greatest worth, in dollars, of things that it can carry together?",
            "Its load is to be worth as much as possible. How many dollars is that?",
        ]
    )
    cart = rng.choice(["A cart", "A trolley", "A boat"])
    prompt = f"{cart} can carry {limit} kg. There is {told}, one of each. {ask}"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(best))


def _greedy(goods: Sequence[str], weight: Mapping[str, int], worth: Mapping[str, int], limit: int) -> int:
    """What is got by taking the dearest that still fits, again and again."""
    left, total = limit, 0
    for good in sorted(goods, key=lambda g: -worth[g]):
        if weight[good] <= left:
            left, total = left - weight[good], total + worth[good]
    return total


FAMILIES = (
    LevelledFamily(
        name="cheapest_route",
        operation="planning",
        description="the shortest way between two towns",
        answer_kind="number",
        levels=tuple(f"{n} towns" for n in _SIZES),
        generate=cheapest_route,
    ),
    LevelledFamily(
        name="task_schedule",
        operation="planning",
        description="when jobs that wait for each other are done",
        answer_kind="number",
        levels=tuple(f"{n - 1} jobs{', told in any order' if n > 5 else ''}" for n in _SIZES),
        generate=task_schedule,
    ),
    LevelledFamily(
        name="best_load",
        operation="planning",
        description="the greatest worth that fits a weight",
        answer_kind="number",
        levels=tuple(f"{n - 1} things{', the dearest first misleads' if n > 4 else ''}" for n in _SIZES),
        generate=best_load,
    ),
)
