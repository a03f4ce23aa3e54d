"""Cases in levels: one culprit among contradicting statements, a grid filled by exclusion, sums counted case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import COLOURS, PEOPLE, counted, listed

_DEEDS = (
    "broke the vase",
    "ate the cake",
    "took the keys",
    "hid the map",
    "left the gate open",
    "spilled the paint",
    "rang the bell",
)
_SUSPECTS = (2, 3, 4, 5, 6)


@dataclass(frozen=True, kw_only=True)
class _Statement:
    speaker: str
    named: tuple[str, ...]
    denied: bool

    def holds(self, culprit: str) -> bool:
        return (culprit in self.named) != self.denied

    @property
    def text(self) -> str:
        names = ["me" if n == self.speaker else n for n in self.named]
        if self.denied and len(names) > 1:
            return f'{self.speaker} says: "It was neither {names[0]} nor {names[1]}."'
        return f'{self.speaker} says: "It was {"not " if self.denied else ""}{listed(names, last="or")}."'


def suspects(rng: Random, level: int) -> Problem:
    """Who did it, where it is known how many of the statements are true; every suspect is a case."""
    people, deed = rng.sample(PEOPLE, _SUSPECTS[level - 1]), rng.choice(_DEEDS)
    culprit = rng.choice(people)
    while True:
        statements = [_statement(rng, person, people, level) for person in people]
        true = sum(s.holds(culprit) for s in statements)
        possible = [p for p in people if sum(s.holds(p) for s in statements) == true]
        if possible == [culprit] and (level == 1 or 0 < true < len(people)):
            break
    steps = []
    for person in people:
        said = [f"{s.speaker}'s is {'true' if s.holds(person) else 'false'}" for s in statements]
        number = sum(s.holds(person) for s in statements)
        fits = "which is right" if number == true else "which is not right"
        steps.append(f"If it was {person}: {listed(said)}. That makes {number} true, {fits}.")
    if level == 1:  # of two suspects both statements are true, or neither: else the two could change places
        how_many = "Both statements are true." if true else "Neither statement is true."
    else:
        how_many = f"Exactly {true} of these statements {'is' if true == 1 else 'are'} true."
    told = f"{listed(people, last='or')} {deed}, and did it alone. {' '.join(s.text for s in statements)} {how_many}"
    return Problem(prompt=f"{told} Who {deed}?", solution="\n".join(steps), answer=culprit, choices=tuple(people))


def _statement(rng: Random, speaker: str, people: Sequence[str], level: int) -> _Statement:
    two = level >= 4 and rng.random() < 0.4
    return _Statement(speaker=speaker, named=tuple(rng.sample(people, 2 if two else 1)), denied=rng.random() < 0.5)


def hat_grid(rng: Random, level: int) -> Problem:
    """Who wears which colour, all different, by exclusion alone."""
    count = _SUSPECTS[level - 1]
    people, colours = rng.sample(PEOPLE, count), rng.sample(COLOURS, count)
    worn = dict(zip(people, rng.sample(colours, count), strict=True))
    clues: list[tuple[str, tuple[str, ...], bool]] = []
    pool: list[tuple[str, tuple[str, ...], bool]] = [(p, (c,), False) for p in people for c in colours if c != worn[p]]
    pool += (
        [(p, tuple(sorted((worn[p], c))), True) for p in people for c in colours if c != worn[p]] if count > 2 else []
    )
    rng.shuffle(pool)
    for clue in pool:
        if len(_excluded(people, colours, clues)) == count:
            break
        clues.append(clue)
    for clue in list(clues):  # none that is not needed
        fewer = [c for c in clues if c != clue]
        if len(_excluded(people, colours, fewer)) == count:
            clues = fewer
    found = _excluded(people, colours, clues)
    asked = rng.choice([person for person, _, _ in found][count // 2 :])
    steps = []
    for person, colour, why in found:
        steps.append(f"{why}, so {person} wears {colour}.")
        if person == asked:
            break
    told = [
        f"{person} wears the {' or the '.join(named)} hat." if kept else f"{person} does not wear the {named[0]} hat."
        for person, named, kept in clues
    ]
    hats = listed([f"one {'hat ' if i == 0 else ''}is {c}" for i, c in enumerate(colours)])
    ask = rng.choice(["Which colour is {p}'s hat?", "Which colour does {p} wear?", "Name the colour of {p}'s hat."])
    prompt = f"{listed(people)} each wear a hat: {hats}. {' '.join(told)} {ask.format(p=asked)}"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=worn[asked], choices=tuple(colours))


def _excluded(
    people: Sequence[str], colours: Sequence[str], clues: Sequence[tuple[str, tuple[str, ...], bool]]
) -> list[tuple[str, str, str]]:
    """Who wears what as far as exclusion settles it, in the order in which it does, and why."""
    left = {p: [c for c in colours if all((c in named) == kept for q, named, kept in clues if q == p)] for p in people}
    found: list[tuple[str, str, str]] = []
    while True:
        open_people = [p for p in people if p not in {f[0] for f in found}]
        step = next(
            ((p, left[p][0], f"{p} can wear nothing but {left[p][0]}") for p in open_people if len(left[p]) == 1), None
        )
        if step is None:
            for colour in colours:
                wearers = [p for p in open_people if colour in left[p]]
                if len(wearers) == 1 and colour not in {f[1] for f in found}:
                    step = (wearers[0], colour, f"Nobody else can wear {colour}")
                    break
        if step is None:
            return found
        found.append(step)
        for person in people:
            left[person] = [c for c in left[person] if (c == step[1]) == (person == step[0])]


_STAMPS = ("stamps", "coins", "tokens", "tickets")


def ways_to_pay(rng: Random, level: int) -> Problem:
    """In how many ways coins of two to four kinds make up a sum; how many there are of the largest are the cases."""
    kinds, low, high = ((2, 8, 16), (2, 16, 28), (3, 16, 28), (3, 28, 48), (4, 18, 30))[level - 1]
    thing, wanted = rng.choice(_STAMPS), rng.randint(1, (4, 6, 7, 10, 12)[level - 1])
    while True:
        values = sorted(rng.sample(range(1, 11), kinds), reverse=True)
        total = rng.randint(low, high)
        lines, ways = _ways(values, total, thing)
        if sum(ways) == wanted and len(lines) <= 16:
            break
    steps = [*lines, *([f"{' + '.join(map(str, ways))} = {sum(ways)}"] if len(ways) > 1 else [])]
    told = listed([str(v) for v in sorted(values)])
    ask = rng.choice(
        [
            "In how many ways can {t} worth {v} cents make up exactly {n} cents? Order does not matter; there are enough of each.",
            "There are {t} worth {v} cents, as many as you like of each. How many different collections of them are worth {n} cents?",
        ]
    )
    return Problem(prompt=ask.format(t=thing, v=told, n=total), solution="\n".join(steps), answer=str(sum(ways)))


def _ways(values: Sequence[int], total: int, thing: str) -> tuple[list[str], list[int]]:
    """A line to each choice of all but the two smallest kinds, or of the largest where there are two, and the ways that it leaves."""
    *before, second, last = values
    ways, lines = list[int](), list[str]()
    if not before:
        for n in range(total // second + 1):
            rest = total - n * second
            can = rest % last == 0
            how = f"{rest} / {last} = {rest // last}" if can else f"{rest} is no multiple of {last}"
            lines.append(f"{counted(n, thing)} of {second}: {rest} left, {how}, {int(can)} way{'' if can else 's'}.")
            ways.append(int(can))
        return lines, ways
    for counts in product(*(range(total // value + 1) for value in before)):
        rest = total - sum(n * v for n, v in zip(counts, before, strict=True))
        if rest < 0:
            continue
        fitting = [n for n in range(rest // second + 1) if (rest - n * second) % last == 0]
        taken = listed([f"{counted(n, thing)} of {v}" for n, v in zip(counts, before, strict=True)])
        which = f"with {listed([str(n) for n in fitting], last='or')} of {second} the rest is a multiple of {last}" if fitting else (
            f"no number of {second}s leaves a multiple of {last}"
        )  # fmt: skip
        lines.append(f"{taken}: {rest} left, {which}, {len(fitting)} way{'' if len(fitting) == 1 else 's'}.")
        ways.append(len(fitting))
    return lines, ways


FAMILIES = (
    LevelledFamily(
        name="suspects",
        operation="cases",
        description="who did it, by how many statements are true",
        answer_kind="choice",
        levels=tuple(f"{n} suspects{', two names in a statement' if n > 4 else ''}" for n in _SUSPECTS),
        generate=suspects,
    ),
    LevelledFamily(
        name="hat_grid",
        operation="cases",
        description="who wears which colour, by exclusion",
        answer_kind="choice",
        levels=tuple(f"{n} people" for n in _SUSPECTS),
        generate=hat_grid,
    ),
    LevelledFamily(
        name="ways_to_pay",
        operation="cases",
        description="in how many ways a sum is made up",
        answer_kind="number",
        levels=(
            "2 kinds, up to 16",
            "2 kinds, up to 28",
            "3 kinds, up to 28",
            "3 kinds, up to 48",
            "4 kinds, up to 30",
        ),
        generate=ways_to_pay,
    ),
)
