"""Arithmetic in levels: bracketed expressions, stories of many events, remainders."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import COUNTED, PEOPLE

_OPERATIONS = (1, 2, 3, 5, 7)
_LARGEST = 900
_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True, kw_only=True)
class _Term:
    text: str
    value: int
    strength: int
    """Of the operation that is done last: 1 for + and -, 2 for * and /, 3 for a bare number."""
    steps: tuple[str, ...] = ()


def _expression(rng: Random, operations: int, largest: int) -> _Term:
    """A random expression whose every part is a whole number from 0 to `_LARGEST`."""
    if operations == 0:
        number = rng.randint(2, largest)
        return _Term(text=str(number), value=number, strength=3)
    on_left = rng.randint(0, operations - 1)
    left, right = _expression(rng, on_left, largest), _expression(rng, operations - 1 - on_left, largest)
    possible = ["+"]
    if left.value > right.value:
        possible += ["-", "-"]
    if left.value * right.value <= _LARGEST and min(left.value, right.value) > 1:
        possible += ["*", "*"]
    if right.value > 1 and left.value > right.value and left.value % right.value == 0:
        possible += ["/"] * 4
    sign = rng.choice(possible)
    strength = _STRENGTH[sign]
    value = {
        "+": left.value + right.value, "-": left.value - right.value, "*": left.value * right.value,
        "/": left.value // max(right.value, 1),
    }[sign]  # fmt: skip
    first = f"({left.text})" if left.strength < strength else left.text
    second = f"({right.text})" if right.strength <= strength else right.text
    return _Term(
        text=f"{first} {sign} {second}",
        value=value,
        strength=strength,
        steps=(*left.steps, *right.steps, f"{left.value} {sign} {right.value} = {value}"),
    )


def nested_expression(rng: Random, level: int) -> Problem:
    """The value of an expression with brackets; every operation is a step."""
    term = _expression(rng, _OPERATIONS[level - 1], (9, 12, 15, 20, 20)[level - 1])
    ask = rng.choice(["What is {e}?", "Work out {e}.", "Find the value of {e}.", "Calculate {e}."])
    return Problem(prompt=ask.format(e=term.text), solution="\n".join(term.steps), answer=str(term.value))


_GAINS = (
    "finds {n} more",
    "buys {n} more",
    "gets {n} more from a friend",
    "is given {n} more",
    "wins {n} more in a game",
)
_LOSSES = (
    "loses {n} of them",
    "sells {n} of them",
    "gives {n} of them away",
    "breaks {n} of them",
    "drops {n} of them",
)
_ASIDES = (
    "{p} is {n} years old.",
    "The shop is {n} minutes away.",
    "A neighbour has {n} {t}.",
    "There are {n} chairs in the room.",
    "{p} read {n} pages yesterday.",
)
_ORDER = ("First", "Then", "Later", "After that", "Next", "In the evening", "The next day", "At last")


def ledger_story(rng: Random, level: int) -> Problem:
    """How many are left after a row of events; packs and halves from level 3, numbers that do not matter from level 4."""
    events, asides = (1, 2, 3, 5, 7)[level - 1], (0, 0, 0, 1, 2)[level - 1]
    person, thing = rng.choice(PEOPLE), rng.choice(COUNTED)
    have = rng.randint(3, 12) if level == 1 else rng.randint(12, 60)
    told, steps = [f"{person} has {have} {thing}."], list[str]()
    for number in range(events):
        begin = "" if events == 1 else f"{_ORDER[min(number, len(_ORDER) - 1)]}, "
        kinds = ["gain", "loss"]
        if level >= 3:
            kinds.append("packs")
            if have % 2 == 0 and have >= 8:
                kinds.append("half")
        kind = rng.choice(kinds) if have > 4 else "gain"
        n = rng.randint(2, 9) if level == 1 else rng.randint(2, 30)
        if kind == "loss":
            n = rng.randint(2, have - 1) if have - 1 < n else n
            told.append(f"{begin}{person} {rng.choice(_LOSSES).format(n=n)}.")
            steps.append(f"{have} - {n} = {have - n}")
            have -= n
        elif kind == "packs":
            packs, size = rng.randint(2, 6), rng.randint(3, 9)
            told.append(f"{begin}{person} buys {packs} packs with {size} {thing} in each.")
            steps += [f"{packs} * {size} = {packs * size}", f"{have} + {packs * size} = {have + packs * size}"]
            have += packs * size
        elif kind == "half":
            told.append(f"{begin}{person} gives half of the {thing} to a friend.")
            steps.append(f"{have} / 2 = {have // 2}")
            have //= 2
        else:
            told.append(f"{begin}{person} {rng.choice(_GAINS).format(n=n)}.")
            steps.append(f"{have} + {n} = {have + n}")
            have += n
    for aside in rng.sample(_ASIDES, asides):
        told.insert(rng.randint(1, len(told)), aside.format(p=person, n=rng.randint(3, 60), t=thing))
    ask = rng.choice(["How many {t} does {p} have now?", "How many {t} does {p} have in the end?"])
    prompt = f"{' '.join(told)} {ask.format(t=thing, p=person)}"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(have), distractors=asides)


def remainder(rng: Random, level: int) -> Problem:
    """What is left over by a division, of a number, a sum or a product."""
    divisor = rng.randint(3, 9) if level < 4 else rng.randint(6, 13)
    person, thing = rng.choice(PEOPLE), rng.choice(COUNTED)
    box = rng.choice(["bags", "boxes", "rows", "packs"])
    steps, told = list[str](), ""
    if level <= 2:
        total = rng.randint(divisor + 1, 30) if level == 1 else rng.randint(60, 250)
        plain, told = str(total), f"{person} has {total} {thing}"
    elif level == 3:
        a, b = rng.randint(20, 150), rng.randint(20, 150)
        total = a + b
        plain, told = f"{a} + {b}", f"{person} has {a} {thing} and gets {b} more"
        steps.append(f"{a} + {b} = {total}")
    else:
        a, b, c = rng.randint(6, 30), rng.randint(11, 40), rng.randint(10, 99)
        total = a * b + (c if level == 5 else 0)
        plain, told = f"{a} * {b}", f"{person} has {a} trays with {b} {thing} on each"
        steps.append(f"{a} * {b} = {a * b}")
        if level == 5:
            plain, told = f"{plain} + {c}", f"{told} and {c} single {thing}"
            steps.append(f"{a * b} + {c} = {total}")
    times, left = divmod(total, divisor)
    steps += [f"{times} * {divisor} = {times * divisor}", f"{total} - {times * divisor} = {left}"]
    ask = rng.choice(
        [
            "What is the remainder when {e} is divided by {d}?",
            "{s}, and packs as many full {b} of {d} as possible. How many {t} are left over?",
            "{s}, and puts them into {b} of {d} until no more can be filled. How many {t} remain?",
        ]
    )
    prompt = ask.format(e=plain, d=divisor, s=told, b=box, t=thing)
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(left))


FAMILIES = (
    LevelledFamily(
        name="nested_expression",
        operation="arithmetic",
        description="value of an expression with brackets",
        answer_kind="number",
        levels=tuple(f"{n} operation{'s' if n > 1 else ', numbers up to 9'}" for n in _OPERATIONS),
        generate=nested_expression,
    ),
    LevelledFamily(
        name="ledger_story",
        operation="arithmetic",
        description="how many there are after a row of events",
        answer_kind="number",
        levels=(
            "1 event, small numbers",
            "2 events",
            "3 events, packs and halves",
            "5 events, 1 number that does not matter",
            "7 events, 2 numbers that do not matter",
        ),
        generate=ledger_story,
    ),
    LevelledFamily(
        name="remainder",
        operation="arithmetic",
        description="what is left over by a division",
        answer_kind="number",
        levels=("number up to 30", "number up to 250", "a sum", "a product", "a product and a sum"),
        generate=remainder,
    ),
)
