"""Sets in levels: unions and differences, counts by inclusion and exclusion, numbers that meet conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import listed, once


def _braces(members: Sequence[int] | frozenset[int] | set[int]) -> str:
    return "{" + ", ".join(map(str, sorted(members))) + "}"


_SIGNS: dict[str, Callable[[frozenset[int], frozenset[int]], frozenset[int]]] = {
    "∪": frozenset.union,
    "∩": frozenset.intersection,
    "\\": frozenset.difference,
}
_WORDS = {"∪": "in {a} or in {b} or in both", "∩": "in both {a} and {b}", "\\": "in {a} but not in {b}"}


def set_expression(rng: Random, level: int) -> Problem:
    r"""The members of what unions, intersections and differences make, in words at first, with the signs ∪, ∩ and \ from level 3."""
    count, size, largest = ((2, 4, 12), (2, 7, 20), (3, 6, 15), (3, 8, 20), (4, 8, 20))[level - 1]
    names = "ABCD"[:count]
    while True:
        sets = {n: frozenset(rng.sample(range(1, largest + 1), rng.randint(size - 1, size + 1))) for n in names}
        text, value, steps = names[0], sets[names[0]], list[str]()
        order = list(names)
        rng.shuffle(order)
        text, value = order[0], sets[order[0]]
        signs = [rng.choice(list(_SIGNS)) for _ in order[1:]]
        if level == 4:  # one set a second time
            order.append(rng.choice(order[:-1]))
            signs.append(rng.choice(list(_SIGNS)))
        if level == 5:
            text, value, steps = _paired(order, signs, sets)
        else:
            for sign, name in zip(signs, order[1:], strict=True):
                whole = f"({text})" if " " in text else text
                text, value = f"{whole} {sign} {name}", _SIGNS[sign](value, sets[name])
                steps.append(f"{text} = {_braces(value)}")
        if 1 <= len(value) <= 9 and len(set(signs)) >= min(2, len(signs)):
            break
    told = listed([f"{n} = {_braces(sets[n])}" for n in names])
    if level <= 2:
        where = _WORDS[signs[0]].format(a=order[0], b=order[1])
        ask = rng.choice(["Which numbers are {w}?", "List the numbers that are {w}."]).format(w=where)
    else:
        ask = rng.choice(["What is {t}?", "Find {t}.", "List the numbers in {t}."]).format(t=text)
    return Problem(
        prompt=f"Let {told}. {ask}",
        solution="\n".join(steps),
        answer=_braces(value),
    )


def _paired(
    order: Sequence[str], signs: Sequence[str], sets: dict[str, frozenset[int]]
) -> tuple[str, frozenset[int], list[str]]:
    """Two pairs of sets, put together."""
    (a, b, c, d), (one, two, between) = order, signs
    left, right = _SIGNS[one](sets[a], sets[b]), _SIGNS[two](sets[c], sets[d])
    value = _SIGNS[between](left, right)
    text = f"({a} {one} {b}) {between} ({c} {two} {d})"
    steps = [f"{a} {one} {b} = {_braces(left)}", f"{c} {two} {d} = {_braces(right)}", f"{text} = {_braces(value)}"]
    return text, value, steps


_GROUPS = (("pupils", "play", ("chess", "football", "tennis")), ("guests", "like", ("tea", "coffee", "cocoa")),
           ("readers", "buy", ("poems", "novels", "comics")), ("members", "speak", ("French", "Spanish", "German")),
           ("tourists", "visit", ("the museum", "the harbour", "the castle")),
           ("farmers", "grow", ("wheat", "maize", "beans")))  # fmt: skip


def overlap_count(rng: Random, level: int) -> Problem:
    """How many are in one of several groups that overlap: two of them up to level 3, then three."""
    people, verb, things = rng.choice(_GROUPS)
    a, b, c = rng.sample(things, 3)
    if level <= 3:
        only_a, only_b, both, none = rng.randint(3, 30), rng.randint(3, 30), rng.randint(2, 20), rng.randint(2, 20)
        in_a, in_b = only_a + both, only_b + both
        told = f"Of some {people}, {in_a} {verb} {a}, {in_b} {verb} {b} and {both} {verb} both."
        steps = [f"{in_a} + {in_b} = {in_a + in_b}", f"{in_a + in_b} - {both} = {in_a + in_b - both}"]
        answer, ask = in_a + in_b - both, f"How many {verb} at least one of the two?"
        if level == 2:
            steps = [
                f"{in_a} - {both} = {only_a}",
                f"{in_b} - {both} = {only_b}",
                f"{only_a} + {only_b} = {only_a + only_b}",
            ]
            answer, ask = only_a + only_b, f"How many {verb} exactly one of the two?"
        elif level == 3:
            total = answer + none
            told = told.replace("some", str(total))
            steps.append(f"{total} - {answer} = {none}")
            answer, ask = none, f"How many {verb} neither of the two?"
        return Problem(prompt=f"{told} {ask}", solution="\n".join(steps), answer=str(answer))
    ones = [rng.randint(2, 20) for _ in range(3)]
    ab, ac, bc, abc = (rng.randint(1, 9) for _ in range(4))
    in_a, in_b, in_c = ones[0] + ab + ac + abc, ones[1] + ab + bc + abc, ones[2] + ac + bc + abc
    told = (
        f"{in_a} {verb} {a}, {in_b} {verb} {b} and {in_c} {verb} {c}. "
        f"{ab + abc} {verb} {a} and {b}, {ac + abc} {verb} {a} and {c}, and {bc + abc} {verb} {b} and {c}"
    )
    singles, pairs = in_a + in_b + in_c, ab + ac + bc + 3 * abc
    steps = [
        f"{in_a} + {in_b} + {in_c} = {singles}",
        f"{ab + abc} + {ac + abc} + {bc + abc} = {pairs}",
    ]
    union = sum(ones) + ab + ac + bc + abc
    if level == 4:
        steps += [f"{singles} - {pairs} = {singles - pairs}", f"{singles - pairs} + {abc} = {union}"]
        prompt = f"Of some {people}, {told}. {abc} {verb} all three. How many {verb} at least one of the three?"
        return Problem(prompt=prompt, solution="\n".join(steps), answer=str(union))
    none = rng.randint(1, 12)
    # How many are in all three follows from how many are in none.
    steps += [
        f"{union + none} - {none} = {union}",
        f"{singles} - {pairs} = {singles - pairs}",
        f"{union} - {singles - pairs} = {abc}",
        f"2 * {pairs} = {2 * pairs}",
        f"{singles} - {2 * pairs} + 3 * {abc} = {sum(ones)}",
    ]
    prompt = f"Of {union + none} {people}, {told}. {none} {verb} none of the three. How many {verb} exactly one of the three?"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(sum(ones)))


_Condition = tuple[str, Callable[[int], bool]]


def _condition(rng: Random, kind: str) -> _Condition:
    k = rng.choice([3, 4, 5, 6, 7])
    n = rng.randint(15, 70)
    digit = rng.randint(5, 12)
    conditions: dict[str, list[_Condition]] = {
        "parity": [("even", lambda x: x % 2 == 0), ("odd", lambda x: x % 2 == 1)],
        "size": [(f"greater than {n}", lambda x: x > n), (f"less than {n}", lambda x: x < n)],
        "multiple": [(f"a multiple of {k}", lambda x: x % k == 0)],
        "digits": [(f"a number whose digits add up to more than {digit}", lambda x: sum(map(int, str(x))) > digit)],
    }
    return rng.choice(conditions[kind])


def number_filter(rng: Random, level: int) -> Problem:
    """Which numbers of a list meet one to three conditions, joined by "and", "or" and "but not"."""
    count = (4, 6, 8, 10, 12)[level - 1]
    kept: list[int] = []
    while not 1 <= len(kept) < count:
        words, join, parts = _conditions(rng, level)
        numbers = rng.sample(range(2, 100), count)
        kept = [x for x in numbers if join(x)]
    steps = []
    for text, holds in parts:
        fitting = [str(x) for x in numbers if holds(x)]
        steps.append(f"{once(text)}: {listed(fitting) if fitting else 'none of them'}.")
    if len(parts) > 1:
        steps.append(f"All that is asked for: {listed([str(x) for x in kept])}.")
    ask = rng.choice(["Which of the numbers {n} are {w}?", "Of the numbers {n}, list those that are {w}."])
    prompt = ask.format(n=", ".join(map(str, numbers)), w=_plural(words))
    return Problem(prompt=prompt, solution="\n".join(steps), answer=_braces(kept))


def _conditions(rng: Random, level: int) -> tuple[str, Callable[[int], bool], list[_Condition]]:
    """Conditions in words, whether a number meets all that is asked for, and each condition alone."""
    kinds = rng.sample(["parity", "size", "multiple", "digits"] if level >= 4 else ["parity", "size", "multiple"], 3)
    parts = [_condition(rng, kind) for kind in kinds]
    (one, is_one), (two, is_two), (three, is_three) = parts
    if level == 1:
        return one, is_one, parts[:1]
    if level == 2:
        return f"both {one} and {two}", lambda x: is_one(x) and is_two(x), parts[:2]
    if level == 3:
        return f"{one} or {two} or both", lambda x: is_one(x) or is_two(x), parts[:2]
    if level == 4:
        words = f"both {one} and {two}, but not {three}"
        return words, lambda x: is_one(x) and is_two(x) and not is_three(x), parts
    words = f"{three} and moreover either {one} or {two}, but not both"
    return words, lambda x: is_three(x) and is_one(x) != is_two(x), parts


def _plural(words: str) -> str:
    """Conditions said of several numbers."""
    return words.replace("a multiple of", "multiples of").replace("a number whose", "numbers whose")


FAMILIES = (
    LevelledFamily(
        name="set_expression",
        operation="sets",
        description="unions, intersections and differences",
        answer_kind="set",
        levels=(
            "2 small sets, in words",
            "2 sets, in words",
            "3 sets",
            "3 sets, one of them twice",
            "4 sets in two pairs",
        ),
        generate=set_expression,
    ),
    LevelledFamily(
        name="overlap_count",
        operation="sets",
        description="how many are in groups that overlap",
        answer_kind="number",
        levels=(
            "in one of two or both",
            "in exactly one of two",
            "in neither of two",
            "in one of three or more",
            "in exactly one of three",
        ),
        generate=overlap_count,
    ),
    LevelledFamily(
        name="number_filter",
        operation="sets",
        description="numbers that meet conditions",
        answer_kind="set",
        levels=("1 condition", "2, joined by and", "2, joined by or", "3, one denied", "3, one of two exactly"),
        generate=number_filter,
    ),
)
