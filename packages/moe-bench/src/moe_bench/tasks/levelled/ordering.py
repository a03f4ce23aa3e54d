"""Ordering in levels: ranks by comparisons, sorting by one key and by two, a row of seats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import ORDINALS, PEOPLE, listed

_SCALES = (("taller", "shorter", "tallest", "shortest"), ("older", "younger", "oldest", "youngest"),
           ("faster", "slower", "fastest", "slowest"), ("heavier", "lighter", "heaviest", "lightest"))  # fmt: skip
_PEOPLE = (2, 3, 4, 5, 7)


def rank_from_clues(rng: Random, level: int) -> Problem:
    """Who has a place in an order, told by pairs of neighbours; any place from level 3, pairs in any order and direction."""
    order = rng.sample(PEOPLE, _PEOPLE[level - 1])
    more, less, most, least = rng.choice(_SCALES)
    clues = [
        f"{a} is {more} than {b}." if rng.random() < 0.5 else f"{b} is {less} than {a}." for a, b in pairwise(order)
    ]
    rng.shuffle(clues)
    if level < 3:
        place, asked = rng.choice([(0, most), (len(order) - 1, least)])
        asked = asked if len(order) > 2 else {most: more, least: less}[asked]
    else:
        place = rng.randrange(1, len(order) - 1)
        from_top = place if place <= len(order) - 1 - place else len(order) - 1 - place
        asked = f"{ORDINALS[from_top]} {most if from_top == place else least}"
    steps = [f"{a} is {more} than {b}." for a, b in pairwise(order)]
    steps.append(f"From the {most} to the {least}: {', '.join(order)}.")
    ask = rng.choice(["Who is the {a}?", "Which of them is the {a}?", "Name the {a} of them."])
    return Problem(
        prompt=f"{' '.join(clues)} {ask.format(a=asked)}",
        solution="\n".join(steps),
        answer=order[place],
        choices=tuple(sorted(order)),
    )


def sort_records(rng: Random, level: int) -> Problem:
    """Numbers, then people by a number, by a number with ties, and by two numbers."""
    falling = rng.random() < 0.5
    if level <= 2:
        numbers = rng.sample(range(1, 40 if level == 1 else 200), 3 if level == 1 else 5)
        order = sorted(numbers, reverse=falling)
        word = "from the largest to the smallest" if falling else "from the smallest to the largest"
        ask = rng.choice(["Sort these numbers {w}: {n}.", "Put these numbers in order {w}: {n}."])
        prompt = ask.format(w=word, n=", ".join(map(str, numbers)))
        return _sorted_problem(prompt, [str(n) for n in numbers], [str(n) for n in order])
    people = rng.sample(PEOPLE, (5, 6, 7)[level - 3])
    points = {p: rng.randint(1, 60) for p in people}
    if level == 3:
        points = dict(zip(people, rng.sample(range(1, 60), len(people)), strict=True))
    elif level == 4:
        values = rng.sample(range(1, 60), 4)
        points = {p: rng.choice(values) for p in people}
    else:
        values = rng.sample(range(1, 60), 3)
        points = {p: rng.choice(values) for p in people}
    seconds = dict(zip(people, rng.sample(range(30, 99), len(people)), strict=True))
    sign = -1 if falling else 1
    order_of_people = sorted(people, key=lambda p: (sign * points[p], seconds[p] if level == 5 else 0, p))
    told = [
        f"{p} has {points[p]} point{'s' if points[p] != 1 else ''}{f' in {seconds[p]} seconds' if level == 5 else ''}"
        for p in people
    ]
    word = "the most points first" if falling else "the fewest points first"
    tie = {3: "", 4: " Those with as many points as each other go in alphabetical order.",
           5: " Of those with as many points as each other, the one with fewer seconds goes first."}[level]  # fmt: skip
    prompt = f"{listed(told)}. List the people with {word}.{tie} Write the names with commas between them."
    return _sorted_problem(prompt, people, order_of_people)


def _sorted_problem(prompt: str, given: Sequence[str], order: Sequence[str]) -> Problem:
    left, steps = list(given), list[str]()
    for each in order[:-1]:
        left.remove(each)
        steps.append(
            f"Next comes {each}; left are {listed(left)}."
            if len(left) > 1
            else f"Next comes {each}; {left[0]} is left."
        )
    return Problem(prompt=prompt, solution="\n".join(steps), answer=", ".join(order))


Row = tuple[str, ...]
_INSIDE = "{a} does not sit at an end of the row."
_AT_END = "{a} sits at an end of the row."
_LEFT = "{a} sits somewhere to the left of {b}."
_BESIDE_LEFT = "{a} sits directly to the left of {b}."
_NEXT = "{a} sits next to {b}."
_NOT_NEXT = "{a} does not sit next to {b}."
_ONE_BETWEEN = "There is exactly one seat between {a} and {b}."


@dataclass(frozen=True)
class _Statement:
    """Something that is said of a row."""

    form: str
    a: str
    b: str = ""
    seat: int | None = None

    @property
    def text(self) -> str:
        return self.form.format(a=self.a, b=self.b)

    def holds(self, row: Row) -> bool:
        x = row.index(self.a)
        if self.seat is not None:
            return x == self.seat
        if not self.b:
            return (x in (0, len(row) - 1)) == (self.form == _AT_END)
        y = row.index(self.b)
        return {
            _LEFT: x < y,
            _BESIDE_LEFT: x + 1 == y,
            _NEXT: abs(x - y) == 1,
            _NOT_NEXT: abs(x - y) > 1,
            _ONE_BETWEEN: abs(x - y) == 2,
        }[self.form]


def row_of_seats(rng: Random, level: int) -> Problem:
    """Who sits in a seat of a row, where the statements leave a single row."""
    people = rng.sample(PEOPLE, (3, 3, 4, 5, 6)[level - 1])
    row = tuple(rng.sample(people, len(people)))
    pool = [statement for statement in _statements(people, level) if statement.holds(row)]
    rng.shuffle(pool)
    rows, clues = list(permutations(people)), list[_Statement]()
    for statement in pool:
        fewer = [r for r in rows if statement.holds(r)]
        if len(fewer) < len(rows):
            clues.append(statement)
            rows = fewer
    for clue in list(clues):  # none that is not needed
        rest = [c for c in clues if c is not clue]
        if sum(all(c.holds(r) for c in rest) for r in permutations(people)) == 1:
            clues = rest
    rows, steps = list(permutations(people)), list[str]()
    for clue in clues:
        rows = [r for r in rows if clue.holds(r)]
        left = "; ".join(", ".join(r) for r in rows) if len(rows) <= 3 else ""
        steps.append(
            f'"{clue.text}" leaves {len(rows)} row{"s" if len(rows) > 1 else ""}{f": {left}" if left else ""}.'
        )
    seat = rng.randrange(len(people))
    ask = rng.choice(["Who sits in the {o} seat from the left?", "Whose seat is the {o} from the left?"])
    prompt = f"{listed(people)} sit in a row of {len(people)} seats. {' '.join(clue.text for clue in clues)} {ask.format(o=ORDINALS[seat])}"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=row[seat], choices=tuple(sorted(people)))


def _statements(people: Sequence[str], level: int) -> list[_Statement]:
    """What can be said of a row at a level, true or not."""
    seats = range(len(people) if level == 1 else 1 if level == 2 else 0)
    made = [
        _Statement("{a} sits in the " + ORDINALS[s] + " seat from the left.", a, seat=s) for a in people for s in seats
    ]
    if level == 1:
        return made
    about_one = (_INSIDE, _AT_END) if level >= 3 else ()
    about_two = (_LEFT, _BESIDE_LEFT) if level <= 4 else (_LEFT,)
    either_way = (_NEXT, _NOT_NEXT, _ONE_BETWEEN) if level >= 4 else ()
    made += [_Statement(text, a) for text in about_one for a in people]
    made += [_Statement(text, a, b) for text in about_two for a, b in permutations(people, 2)]
    made += [_Statement(text, a, b) for text in either_way for a, b in permutations(people, 2) if a < b]
    return made


FAMILIES = (
    LevelledFamily(
        name="rank_from_clues",
        operation="ordering",
        description="who has a place in an order, told by pairs",
        answer_kind="choice",
        levels=tuple(f"{n} people{', any place' if n > 3 else ''}" for n in _PEOPLE),
        generate=rank_from_clues,
    ),
    LevelledFamily(
        name="sort_records",
        operation="ordering",
        description="numbers or people sorted",
        answer_kind="list",
        levels=(
            "3 numbers",
            "5 numbers",
            "5 people by points",
            "6 people by points, ties by name",
            "7 people by points, ties by time",
        ),
        generate=sort_records,
    ),
    LevelledFamily(
        name="row_of_seats",
        operation="ordering",
        description="who sits where in a row",
        answer_kind="choice",
        levels=(
            "3 people, seats told",
            "3 people, by neighbours",
            "4 people",
            "5 people",
            "6 people, no direct neighbours told",
        ),
        generate=row_of_seats,
    ),
)
