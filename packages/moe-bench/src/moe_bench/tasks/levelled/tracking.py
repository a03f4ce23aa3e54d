"""Tracking in levels: who has what after swaps, where a walk leads, how many there are after moves between boxes."""

from __future__ import annotations

from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import COLOURS, COUNTED, PEOPLE, counted, listed

_SIZES = ((2, 1), (3, 2), (3, 3), (4, 5), (5, 7))
"""People or boxes, and moves, of each level."""
_HELD = ("ball", "book", "hat", "mug", "scarf", "kite", "balloon")


def object_swaps(rng: Random, level: int) -> Problem:
    """Who holds which thing after swaps; what the two of each swap hold is written out."""
    count, swaps = _SIZES[level - 1]
    people, colours, thing = rng.sample(PEOPLE, count), rng.sample(COLOURS, count), rng.choice(_HELD)
    held = dict(zip(people, colours, strict=True))
    told = [f"{p} has the {c} {thing}" for p, c in held.items()]
    moves, steps, before = list[str](), list[str](), ("", "")
    for _ in range(swaps):
        one, other = rng.sample(people, 2)
        while {one, other} == {*before}:  # a swap that undoes the one before it says nothing
            one, other = rng.sample(people, 2)
        before = (one, other)
        held[one], held[other] = held[other], held[one]
        moves.append(f"{one} and {other} {rng.choice(['swap', 'trade'])}.")
        steps.append(
            f"{one} and {other} swap: {one} has the {held[one]} {thing}, {other} has the {held[other]} {thing}."
        )
    asked = rng.choice(people)
    ask = rng.choice(["Which {t} does {p} have at the end?", "Which {t} does {p} have now?"])
    prompt = f"{listed(told)}. {' '.join(moves)} {ask.format(t=thing, p=asked)}"
    return Problem(
        prompt=prompt, solution="\n".join(steps), answer=held[asked], choices=tuple(rng.sample(colours, count))
    )


_NORTH = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
_ROUND = tuple(_NORTH)


def grid_walk(rng: Random, level: int) -> Problem:
    """How far a walk ends from its beginning, counted along the grid; with turns instead of directions from level 4."""
    moves = (1, 2, 4, 5, 8)[level - 1]
    person = rng.choice(PEOPLE)
    x = y = facing = 0
    told, steps = list[str](), list[str]()
    if level >= 4:
        facing = rng.randrange(4)
        told.append(f"{person} stands on a square grid and faces {_ROUND[facing]}.")
    for number in range(moves):
        n = rng.randint(2, 15) if level > 1 else rng.randint(2, 60)
        turn = ""
        if level >= 4:
            if number:
                turn = rng.choice(["left", "right"])
                facing = (facing + (1 if turn == "right" else -1)) % 4
        else:
            others = [i for i in range(4) if number == 0 or i != facing]
            facing = rng.choice(others)
        way = _ROUND[facing]
        x, y = x + n * _NORTH[way][0], y + n * _NORTH[way][1]
        if level < 4:
            told.append(f"{n} steps {way}")
        else:
            told.append(f"{person} {f'turns {turn} and ' if turn else ''}walks {n} steps.")
        steps.append(f"{n} steps {way}: at ({x}, {y})")
    steps.append(f"{abs(x)} + {abs(y)} = {abs(x) + abs(y)}")
    walk = " ".join(told) if level >= 4 else f"On a square grid, {person} walks {listed(told)}."
    ask = rng.choice(
        [
            "How many steps along the grid is {p} away from the first place?",
            "Going only north, south, east or west, how many steps away is the place where {p} began?",
            "What is the smallest number of steps along the grid that leads {p} back?",
        ]
    )
    return Problem(prompt=f"{walk} {ask.format(p=person)}", solution="\n".join(steps), answer=str(abs(x) + abs(y)))


def moved_counts(rng: Random, level: int) -> Problem:
    """How many things a box holds after some were moved between boxes; halves of a box from level 4."""
    count, moves = _SIZES[level - 1]
    colours, thing = rng.sample(COLOURS, count), rng.choice(COUNTED)
    box = rng.choice(["box", "bag", "drawer", "basket"])
    held = {c: rng.randint(8, 40) for c in colours}
    told = [f"the {c} {box} holds {counted(n, thing)}" for c, n in held.items()]
    sentences, steps = list[str](), list[str]()
    for _ in range(moves):
        giving = rng.choice([c for c in colours if held[c] > 3])
        taking = rng.choice([c for c in colours if c != giving])
        have = held[giving]
        n, what = rng.randint(2, min(12, have - 1)), ""
        if level >= 4 and have % 2 == 0 and rng.random() < 0.5:
            n, what = have // 2, f"Half of the {thing} in the {giving} {box} are moved to the {taking} {box}."
        sentences.append(what or f"{n} {thing} are moved from the {giving} {box} to the {taking} {box}.")
        halved = f"{giving}: {have} / 2 = {n}, " if what else ""
        steps.append(
            f"{halved}{giving}: {have} - {n} = {have - n}, {taking}: {held[taking]} + {n} = {held[taking] + n}"
        )
        held[giving], held[taking] = have - n, held[taking] + n
    touched = [c for c in colours if any(f"{c}: " in s for s in steps)]
    asked = rng.choice(touched)
    ask = rng.choice(["How many {t} are in the {c} {b} now?", "How many {t} does the {c} {b} hold in the end?"])
    told[0] = told[0].replace("the", "The", 1)
    prompt = f"{listed(told)}. {' '.join(sentences)} {ask.format(t=thing, c=asked, b=box)}"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=str(held[asked]))


FAMILIES = (
    LevelledFamily(
        name="object_swaps",
        operation="tracking",
        description="who has what after swaps",
        answer_kind="choice",
        levels=tuple(f"{p} people, {n} swap{'s' if n > 1 else ''}" for p, n in _SIZES),
        generate=object_swaps,
    ),
    LevelledFamily(
        name="grid_walk",
        operation="tracking",
        description="how far a walk ends from its beginning",
        answer_kind="number",
        levels=("1 way", "2 ways", "4 ways", "5 ways with turns", "8 ways with turns"),
        generate=grid_walk,
    ),
    LevelledFamily(
        name="moved_counts",
        operation="tracking",
        description="how many are where after moves",
        answer_kind="number",
        levels=tuple(
            f"{p} boxes, {n} move{'s' if n > 1 else ''}{', some of a half' if n > 3 else ''}" for p, n in _SIZES
        ),
        generate=moved_counts,
    ),
)
