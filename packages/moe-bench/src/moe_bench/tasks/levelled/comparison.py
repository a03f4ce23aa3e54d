"""Comparison in levels: amounts told by one another, fractions of different forms, claims of inequality."""

from __future__ import annotations

from fractions import Fraction
from math import lcm
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import COUNTED, PEOPLE

_PEOPLE = (2, 3, 4, 5, 6)
_OPTIONS = (2, 3, 3, 4, 5)


def relative_amounts(rng: Random, level: int) -> Problem:
    """Who has most or fewest, where each is told by how many another has."""
    count = _PEOPLE[level - 1]
    people, thing = rng.sample(PEOPLE, count), rng.choice(COUNTED)
    rank, word = _rank(rng, level)
    place = rng.randrange(count)  # drawn first: else doubling would favour those who are told last
    while True:
        told, values, steps = _amounts(rng, people, thing, level)
        order = sorted(people, key=lambda p: values[p], reverse=True)
        if len(set(values.values())) == count and people.index(order[rank]) == place:
            break
    if level >= 4:
        rng.shuffle(told)
    steps.append(" > ".join(str(values[p]) for p in order))
    if rank not in (0, -1):
        steps.append(f"The second largest is {values[order[rank]]}.")
    ask = rng.choice(["Who has {w} {t}?", "Which of them has {w} {t}?"]).format(w=word, t=thing)
    return Problem(
        prompt=f"{' '.join(told)} {ask}", solution="\n".join(steps), answer=order[rank], choices=tuple(people)
    )


def _rank(rng: Random, level: int) -> tuple[int, str]:
    if level == 1:
        return rng.choice([(0, "more"), (-1, "fewer")])
    ranks = [(0, "the most"), (-1, "the fewest"), (1, "the second most")]
    return rng.choice(ranks if level >= 4 else ranks[:2])


def _amounts(rng: Random, people: list[str], thing: str, level: int) -> tuple[list[str], dict[str, int], list[str]]:
    """What is told of everybody, what they have, and the steps to it."""
    base = rng.randint(6, 40)
    values, told, steps = {people[0]: base}, [f"{people[0]} has {base} {thing}."], list[str]()
    for person in people[1:]:
        other = rng.choice(list(values)) if level < 4 else list(values)[-1]
        have = values[other]
        kinds = ["more", "fewer"] if have > 3 else ["more"]
        if level >= 3:
            kinds += ["twice"] if have < 100 else []
            kinds += ["half"] if have % 2 == 0 and have > 4 else []
        kind = rng.choice(kinds) if level > 1 else "plain"
        n = rng.randint(2, 15)
        if kind == "fewer":
            n = min(n, have - 1)
        if kind == "plain":
            values[person] = rng.randint(3, 60)
            told.append(f"{person} has {values[person]} {thing}.")
            continue
        values[person], how, step = {
            "more": (have + n, f"{n} more {thing} than", f"{have} + {n} = {have + n}"),
            "fewer": (have - n, f"{n} fewer {thing} than", f"{have} - {n} = {have - n}"),
            "twice": (2 * have, f"twice as many {thing} as", f"2 * {have} = {2 * have}"),
            "half": (have // 2, f"half as many {thing} as", f"{have} / 2 = {have // 2}"),
        }[kind]
        told.append(f"{person} has {how} {other}.")
        steps.append(f"{person}: {step}")
    return told, values, steps


def largest_fraction(rng: Random, level: int) -> Problem:
    """Which of several fractions is the largest or smallest; decimals and percentages among them at level 5."""
    count, largest = _OPTIONS[level - 1], rng.random() < 0.5
    values = _fractions(rng, level, count)
    texts = []
    for value, text in values:
        forms = [text]
        if level == 5 and 100 % value.denominator == 0:
            forms += [f"{value.numerator * 100 // value.denominator}%", f"{float(value):g}"]
        texts.append(rng.choice(forms))
    common = lcm(*(int(text.split("/")[1]) for _, text in values))
    steps = [
        f"{shown} = {value.numerator * (common // value.denominator)}/{common}"
        for (value, _), shown in zip(values, texts, strict=True)
        if not shown.endswith(f"/{common}")
    ]
    order = sorted((v for v, _ in values), reverse=largest)
    sign = " > " if largest else " < "
    steps.append(sign.join(f"{v.numerator * (common // v.denominator)}/{common}" for v in order))
    place = [v for v, _ in values].index(order[0])
    lines = [f"({chr(65 + i)}) {text}" for i, text in enumerate(texts)]
    word = ("largest" if largest else "smallest") if count > 2 else ("larger" if largest else "smaller")
    ask = rng.choice(["Which of these is the {w}?", "Which is the {w}?", "Choose the {w}."])
    return Problem(
        prompt="\n".join([ask.format(w=word), *lines]),
        solution="\n".join(steps),
        answer=chr(65 + place),
        choices=tuple(texts),
    )


def _fractions(rng: Random, level: int, count: int) -> list[tuple[Fraction, str]]:
    """Different fractions below 1, each with how it is written."""
    while True:
        if level == 1:
            below = rng.randint(5, 25)
            pairs = [(a, below) for a in rng.sample(range(1, below), count)]
        elif level == 2:
            above = rng.randint(1, 7)
            pairs = [(above, b) for b in rng.sample(range(above + 1, above + 14), count)]
        elif level == 3:
            pairs = [(rng.randint(1, b - 1), b) for b in rng.sample((2, 3, 4, 5, 6, 8, 10, 12), count)]
        elif level == 4:
            pairs = [(rng.randint(1, b - 1), b) for b in rng.sample(range(3, 16), count)]
        else:
            pairs = [(rng.randint(1, b - 1), b) for b in rng.choices((4, 5, 8, 10, 20, 25, 3, 6, 12, 15), k=count)]
        values = [Fraction(a, b) for a, b in pairs]
        close = level < 4 or max(values) - min(values) < Fraction(1, 2)
        if len(set(values)) == count and close:
            return [(v, f"{a}/{b}") for v, (a, b) in zip(values, pairs, strict=True)]


def inequality_claim(rng: Random, level: int) -> Problem:
    """Whether one side is greater or less than another, each a calculation from level 2 on."""
    while True:
        left, right = _side(rng, level, first=True), _side(rng, level, first=False)
        near = level < 3 or abs(left[1] - right[1]) <= max(left[1], right[1]) / 3
        if left[1] != right[1] and near:
            break
    truth = rng.random() < 0.5
    greater = (left[1] > right[1]) == truth
    steps = [*left[2], *right[2], f"{left[1]} {'>' if left[1] > right[1] else '<'} {right[1]}"]
    word = "greater" if greater else "less"
    ask = rng.choice(["Is {a} {w} than {b}?", "Is it true that {a} is {w} than {b}?"])
    return Problem(
        prompt=ask.format(a=left[0], b=right[0], w=word),
        solution="\n".join(steps),
        answer="yes" if truth else "no",
    )


def _side(rng: Random, level: int, *, first: bool) -> tuple[str, int, list[str]]:
    """The text, the value and the steps of one side."""
    if level == 1 or (level == 2 and not first):
        number = rng.randint(10, 99) if level == 1 else rng.randint(15, 120)
        return str(number), number, []
    if level == 2:
        a, b = rng.randint(5, 60), rng.randint(5, 60)
        return f"{a} + {b}", a + b, [f"{a} + {b} = {a + b}"]
    a, b = rng.randint(3, 12) if level == 3 else rng.randint(6, 25), rng.randint(6, 20)
    text, value, steps = f"{a} * {b}", a * b, [f"{a} * {b} = {a * b}"]
    if level == 3:
        return text, value, steps
    c = rng.randint(11, 60)
    if level == 5:
        d = rng.randint(3, 9)
        steps.append(f"{c} * {d} = {c * d}")
        return f"{text} + {c} * {d}", value + c * d, [*steps, f"{value} + {c * d} = {value + c * d}"]
    if rng.random() < 0.5 and value > c:
        return f"{text} - {c}", value - c, [*steps, f"{value} - {c} = {value - c}"]
    return f"{text} + {c}", value + c, [*steps, f"{value} + {c} = {value + c}"]


FAMILIES = (
    LevelledFamily(
        name="relative_amounts",
        operation="comparison",
        description="who has most, each told by another",
        answer_kind="choice",
        levels=(
            "2 people, both numbers given",
            "3 people, sums and differences",
            "4 people, doubles and halves",
            "5 people, told in any order, the second too",
            "6 people, told in any order, the second too",
        ),
        generate=relative_amounts,
    ),
    LevelledFamily(
        name="largest_fraction",
        operation="comparison",
        description="the largest or smallest of several fractions",
        answer_kind="choice",
        levels=(
            "2, same denominator",
            "3, same numerator",
            "3, small denominators",
            "4, close together",
            "5, close together, decimals and percentages among them",
        ),
        generate=largest_fraction,
    ),
    LevelledFamily(
        name="inequality_claim",
        operation="comparison",
        description="whether a calculation is greater or less than another",
        answer_kind="boolean",
        levels=(
            "two numbers",
            "a sum and a number",
            "two products, close",
            "two operations on each side, close",
            "three operations on each side, close",
        ),
        generate=inequality_claim,
    ),
)
