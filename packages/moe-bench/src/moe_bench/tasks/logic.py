"""Deduction from rules, tracking of objects, and exclusion."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from moe_bench.tasks.family import NAMES, Family, Problem

_KINDS = ("wug", "blick", "dax", "fep", "zorp", "kiv", "toma", "nelp", "rund", "sibo")
_TRAITS = ("red", "loud", "tall", "kind", "quick", "cold", "shy", "old")
_COLOURS = ("red", "blue", "green", "white", "black", "pink")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def deduction(rng: Random) -> Problem:
    """A chain of two or three rules; the question is reached by the chain, or is not."""
    kinds = rng.sample(_KINDS, rng.choice([2, 3]))
    trait, other = rng.sample(_TRAITS, 2)
    name = rng.choice(NAMES)
    rules = [f"Every {a} is a {b}." for a, b in pairwise(kinds)]
    rules.append(f"Every {kinds[-1]} is {trait}.")
    rules.append(f"Every {rng.choice([k for k in _KINDS if k not in kinds])} is {other}.")
    rng.shuffle(rules)
    holds = rng.random() < 0.5
    steps = [f"{name} is a {kinds[0]}."]
    steps += [f"Every {a} is a {b}, so {name} is a {b}." for a, b in pairwise(kinds)]
    steps.append(f"Every {kinds[-1]} is {trait}, so {name} is {trait}.")
    if not holds:
        steps.append(f"No rule says that {name} is {other}.")
    prompt = f"{' '.join(rules)} {name} is a {kinds[0]}. Can we tell that {name} is {trait if holds else other}?"
    return Problem(prompt=prompt, solution="\n".join(steps), answer="yes" if holds else "no")


def negation(rng: Random) -> Problem:
    """Contraposition: every A is B, n is not B, so n is not an A."""
    kind, trait, name = rng.choice(_KINDS), rng.choice(_TRAITS), rng.choice(NAMES)
    denied = rng.random() < 0.5
    if denied:
        steps = f"Every {kind} is {trait}.\n{name} is not {trait}, so {name} is not a {kind}."
        prompt = f"Every {kind} is {trait}. {name} is not {trait}. Can {name} be a {kind}?"
        return Problem(prompt=prompt, solution=steps, answer="no")
    steps = f"Every {kind} is {trait}.\n{name} is {trait}, so {name} may be a {kind}."
    prompt = f"Every {kind} is {trait}. {name} is {trait}. Can {name} be a {kind}?"
    return Problem(prompt=prompt, solution=steps, answer="yes")


def tracking(rng: Random) -> Problem:
    """Three people hold a ball each and swap two or three times; every state is written out."""
    people, balls = rng.sample(NAMES, 3), rng.sample(_COLOURS, 3)
    held = dict(zip(people, balls, strict=True))
    start = ", ".join(f"{p} has {held[p]}" for p in people)
    moves, steps = [], []
    for _ in range(rng.choice([2, 3])):
        a, b = rng.sample(people, 2)
        held[a], held[b] = held[b], held[a]
        moves.append(f"{a} and {b} swap.")
        steps.append(", ".join(f"{p} {held[p]}" for p in people))
    asked = rng.choice(people)
    prompt = f"{start}. {' '.join(moves)} Which ball does {asked} have?"
    return Problem(prompt=prompt, solution="\n".join(steps), answer=held[asked])


def exclusion(rng: Random) -> Problem:
    """Three people, three colours; two are told, the third follows."""
    people, colours = rng.sample(NAMES, 3), rng.sample(_COLOURS, 3)
    prompt = (
        f"{people[0]}, {people[1]} and {people[2]} picked {', '.join(sorted(colours))}, one each. "
        f"{people[0]} picked {colours[0]}. {people[1]} picked {colours[1]}. What did {people[2]} pick?"
    )
    solution = f"Taken: {colours[0]}, {colours[1]}.\nLeft: {colours[2]}."
    return Problem(prompt=prompt, solution=solution, answer=colours[2])


def weekday(rng: Random) -> Problem:
    """The day some days after a given one, counted out."""
    start, n = rng.randrange(7), rng.randint(1, 9)
    days = [_DAYS[(start + i) % 7] for i in range(n + 1)]
    name = rng.choice(NAMES)
    ask = rng.choice(
        [
            "Today is {d}. What day is it in {n} days?",
            "{p} leaves on {d} and comes back {n} days later. On what day?",
            "{p} starts on {d} and ends {n} days later. On what day does {p} end?",
        ]
    )
    solution = "\n".join(f"{i}: {day}" for i, day in enumerate(days))
    return Problem(prompt=ask.format(d=days[0], n=n, p=name), solution=solution, answer=days[-1])


FAMILIES = (
    Family(name="deduction", operation="deduce", description="a chain of rules", generate=deduction),
    Family(name="negation", operation="deduce", description="contraposition", generate=negation),
    Family(name="tracking", operation="deduce", description="who holds what after swaps", generate=tracking),
    Family(name="exclusion", operation="cases", description="the colour that is left", generate=exclusion),
    Family(name="weekday", operation="cases", description="count days forward", generate=weekday),
)
