"""Comparison, ordering, counting and units."""

from __future__ import annotations

from random import Random

from moe_bench.tasks.family import NAMES, THINGS, Family, Problem

_UNITS = (("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000), ("h", "min", 60), ("min", "s", 60), ("cm", "mm", 10))


def comparison(rng: Random) -> Problem:
    """The larger or smaller of two numbers, with the sign written."""
    a, b = rng.sample(range(10, 1000), 2)
    if rng.random() < 0.5:  # close numbers are the hard ones
        b = a + rng.choice([-9, -4, -1, 1, 4, 9, 10])
        b = max(b, 1)
    larger = rng.random() < 0.5
    ask = "Which is larger, {a} or {b}?" if larger else "Which is smaller, {a} or {b}?"
    sign = ">" if a > b else "<"
    return Problem(
        prompt=ask.format(a=a, b=b), solution=f"{a}{sign}{b}", answer=str(max(a, b) if larger else min(a, b))
    )


def _selection_steps(numbers: list[int], word: str, *, descending: bool) -> str:
    left, steps = list(numbers), []
    while len(left) > 1:
        chosen = max(left) if descending else min(left)
        left.remove(chosen)
        steps.append(f"{word}: {chosen}, left: {' '.join(map(str, left))}")
    return "\n".join(steps)


def sort_ascending(rng: Random) -> Problem:
    """Four or five numbers sorted from small to large by selection."""
    numbers = rng.sample(range(1, 100), rng.choice([4, 5]))
    ask = rng.choice(["Sort from small to large: {s}.", "Put in rising order: {s}."])
    return Problem(
        prompt=ask.format(s=" ".join(map(str, numbers))),
        solution=_selection_steps(numbers, "smallest", descending=False),
        answer=" ".join(map(str, sorted(numbers))),
    )


def sort_descending(rng: Random) -> Problem:
    """Four or five numbers sorted from large to small by selection."""
    numbers = rng.sample(range(1, 100), rng.choice([4, 5]))
    ask = rng.choice(["Sort from large to small: {s}.", "Put in falling order: {s}."])
    return Problem(
        prompt=ask.format(s=" ".join(map(str, numbers))),
        solution=_selection_steps(numbers, "largest", descending=True),
        answer=" ".join(map(str, sorted(numbers, reverse=True))),
    )


def units(rng: Random) -> Problem:
    """A conversion into the smaller unit."""
    big, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 99)
    ask = rng.choice(["How many {small} are {n} {big}?", "Convert {n} {big} to {small}."])
    solution = f"1 {big}={factor} {small}\n{n}*{factor}={n * factor}"
    return Problem(prompt=ask.format(small=small, big=big, n=n), solution=solution, answer=str(n * factor))


def unit_comparison(rng: Random) -> Problem:
    """Two measures in different units: a conversion, then a comparison."""
    big, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 20)
    value = n * factor
    other = value + rng.choice([-1, 1]) * rng.randint(1, max(2, value // 2))
    first, second = f"{n} {big}", f"{other} {small}"
    pair = (first, second) if rng.random() < 0.5 else (second, first)
    sign = ">" if value > other else "<"
    return Problem(
        prompt=f"Which is more, {pair[0]} or {pair[1]}?",
        solution=f"1 {big}={factor} {small}\n{n}*{factor}={value}\n{value}{sign}{other}",
        answer=first if value > other else second,
    )


def counting(rng: Random) -> Problem:
    """How often a word stands in a list, counted aloud."""
    kinds = rng.sample([t[:-1] for t in THINGS], 3)
    listed = [rng.choice(kinds) for _ in range(rng.randint(5, 9))]
    asked = rng.choice(kinds)
    count, steps = 0, []
    for word in listed:
        count += word == asked
        steps.append(f"{word} {count}")
    prompt = f"List: {' '.join(listed)}. How many times does {asked} stand in it?"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(count))


def who_has_more(rng: Random) -> Problem:
    """Two people's counts compared, and the difference named by its owner."""
    a, b = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    x, y = rng.sample(range(2, 100), 2)
    prompt = f"{a} has {x} {thing} and {b} has {y} {thing}. Who has more?"
    sign = ">" if x > y else "<"
    return Problem(prompt=prompt, solution=f"{x}{sign}{y}", answer=a if x > y else b)


FAMILIES = (
    Family(name="comparison", operation="compare", description="larger or smaller of two", generate=comparison),
    Family(name="sort_ascending", operation="compare", description="sort from small to large", generate=sort_ascending),
    Family(
        name="sort_descending", operation="compare", description="sort from large to small", generate=sort_descending
    ),
    Family(name="units", operation="transform", description="convert to the smaller unit", generate=units),
    Family(name="unit_comparison", operation="compare", description="compare across units", generate=unit_comparison),
    Family(name="counting", operation="calculate", description="count a word in a list", generate=counting),
    Family(name="who_has_more", operation="compare", description="compare two people's counts", generate=who_has_more),
)
