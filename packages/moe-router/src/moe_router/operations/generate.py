"""Steps of every operation, made from the patterns in `examples`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

from moe_router.operations.vocabulary import OPERATIONS, WORDS, letter_of


class Example(NamedTuple):
    """A step with its operation."""

    text: str
    operation: str
    pattern: str
    """What it was made from: examples of one pattern must not stand on both sides of a test."""


_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([a-z]\w*)\}")
# Marks for brackets that are text and not choices.
_OPEN, _CLOSE = "\x01", "\x02"
_MATH = (("$", "$"), ("\\(", "\\)"), ("", ""))
# How a step may be introduced, whatever its operation.
_LEADS = ("",) * 12 + (
    "Step {i}: ",
    "**Step {i}:** ",
    "({i}) ",
    "{i}. ",
    "First, ",
    "Next, ",
    "Now, ",
    "Then, ",
    "Finally, ",
)


# Mathematics is shown in steps of every kind; in these it says nothing of the kind.
_SHOWN = ("setup", "plan", "recall", "deduce", "cases", "check", "conclude")


def examples(per_operation: int, *, seed: int = 0) -> Iterator[Example]:
    """So many different steps of every operation, each pattern as often as the others.

    Args:
        per_operation: how many.
        seed: the same seed gives the same steps.
    """
    rng = random.Random(seed)
    for operation in OPERATIONS:
        patterns = _patterns(operation)
        seen: set[str] = set()
        for turn in range(per_operation * 4):
            number = turn % len(patterns)
            text = fill(patterns[number], rng)
            if operation in _SHOWN and rng.random() < 0.15:
                text = f"{text.rstrip('.')}: {_display(rng)}"
            text = _dress(text, rng)
            if text not in seen:
                seen.add(text)
                yield Example(text, operation, f"{operation}/{number}")
            if len(seen) == per_operation:
                break


def fill(pattern: str, rng: random.Random) -> str:
    """A pattern with every choice taken and every slot filled."""
    text = pattern.replace("\\[", "\\" + _OPEN).replace("\\]", "\\" + _CLOSE)
    while found := _CHOICE.search(text):
        inner = found[1]
        taken = rng.choice(inner.split("|")) if "|" in inner else f"{_OPEN}{inner}{_CLOSE}"
        text = text[: found.start()] + taken + text[found.end() :]
    values = _values(rng)
    text = _SLOT.sub(lambda slot: values.get(slot[1], slot[0]), text.replace(_OPEN, "[").replace(_CLOSE, "]"))
    return re.sub(r"  +", " ", text).strip()


@cache
def _patterns(operation: str) -> list[str]:
    written = (resources.files(__package__) / "examples" / f"{operation}.txt").read_text(encoding="utf-8")
    return [line for line in written.splitlines() if line.strip()]


def _dress(text: str, rng: random.Random) -> str:
    """The same step as different writers would set it."""
    lead = rng.choice(_LEADS).format(i=rng.randint(1, 9))
    if (
        lead
        and lead[-2] == ","
        and text[:1].isupper()
        and text.split()[0] in ("The", "We", "This", "There", "To", "Let's")
    ):
        text = text[0].lower() + text[1:]
    elif lead.endswith(", "):
        lead = ""
    if rng.random() < 0.25:
        opening, closing = rng.choice(_MATH)
        text = re.sub(r"\$([^$]{1,80})\$", lambda m: f"{opening}{m[1]}{closing}", text)
    if rng.random() < 0.15:
        text = text.replace("\\[", "$$").replace("\\]", "$$")
    if rng.random() < 0.1:
        text = text.rstrip(".")
    if rng.random() < 0.2:
        text = text.replace("\\times", "*").replace("×", "x")
    return lead + text


def _values(rng: random.Random) -> dict[str, str]:
    """What the slots of one step hold; the numbers fit each other."""
    n, m, k = rng.randint(11, 99), rng.randint(11, 99), rng.randint(2, 9)
    values = {
        "n": n,
        "m": m,
        "k": k,
        "sum": n + m,
        "sum3": n + m + k,
        "prod": n * k,
        "res2": m * k,
        "sq": k * k,
        "sqk": k * k,
    }
    values |= {
        "prodkn": n * k,
        "choose": n * (n - 1) // 2,
        "fact_k": [1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880][k],
    }
    values |= {"even": 2 * n, "half": n, "sqn": k * k + n, "kn": k + n, "big": n + m + 100, "year": 1990 + n % 40}
    held = {name: str(value) for name, value in values.items()}
    for slot, words in WORDS.items():
        chosen = rng.sample(words, min(4, len(words)))
        for place, word in enumerate(chosen):
            held[slot if place == 0 else f"{slot}{place + 1}"] = word
    held["things"], held["things2"] = held["thing"] + "s", held["thing2"] + "s"
    held["group1"], held["group2s"] = held["group"].removesuffix("s"), held["group2"].removesuffix("s")
    held["quantity_cap"] = held["quantity"].capitalize()
    held["l1"], held["l2"], held["l3"] = (letter_of(held[name]) for name in ("w", "w2", "w3"))
    held["w1"] = held["w"]
    held["calc"], held["res"] = _calculation(rng)
    held["poly"] = _polynomial(rng, held["var"])
    held["alg"] = rng.choice(
        (
            f"{held['poly']} = 0",
            f"{k}{held['var']} = {m}",
            f"{held['var']} = {n} - {held['var2']}",
            f"{held['var']}^2 = {n}",
        )
    )
    held["ans"] = rng.choice(
        (
            str(n),
            f"${n}$",
            f"{n} {held['unit']}",
            f"${n}",
            f"({held['optl']})",
            f"\\boxed{{{n}}}",
            held["name"],
            f"{n}%",
        )
    )
    held["op"], held["rel"] = rng.choice("+-*"), rng.choice(("<", ">", "\\leq", "\\geq", "="))
    return held


def _display(rng: random.Random) -> str:
    """A displayed equation."""
    variable, other = rng.sample("xynabt", 2)
    left, right = (
        _polynomial(rng, variable),
        rng.choice((_polynomial(rng, other), str(rng.randint(0, 90)), f"\\frac{{{other}}}{{{rng.randint(2, 9)}}}")),
    )
    relation = rng.choice(("=", "=", "=", "=", "\\geq", "<", "\\equiv"))
    opening, closing = rng.choice((("\\[", "\\]"), ("$$", "$$"), ("\\(", "\\)"), ("$", "$")))
    return f"{opening}{rng.choice(('', 'f(x) = ', f'{other} = '))}{left} {relation} {right}{closing}"


def _calculation(rng: random.Random) -> tuple[str, str]:
    """A sum and its result, as people write them."""
    a, b, c = rng.randint(2, 90), rng.randint(2, 90), rng.randint(2, 12)
    times = rng.choice(("*", "\\times", "×", "x", "\\cdot"))
    dollar = rng.choice(("", "", "", "$"))
    return rng.choice(
        (
            (f"{dollar}{a} + {dollar}{b}", f"{dollar}{a + b}"),
            (f"{dollar}{a + b} - {dollar}{b}", f"{dollar}{a}"),
            (f"{a} {times} {c}", f"{a * c}"),
            (f"{a * c} {rng.choice(('/', '÷'))} {c}", f"{a}"),
            (f"{a} + {b} + {c}", f"{a + b + c}"),
            (f"({a} + {b}) {times} {c}", f"{(a + b) * c}"),
            (f"\\frac{{{a * c}}}{{{c}}}", f"{a}"),
            (f"{a}.5 + {b}", f"{a + b}.5"),
        )
    )


def _polynomial(rng: random.Random, variable: str) -> str:
    a, b, c = rng.randint(2, 9), rng.randint(2, 30), rng.randint(1, 40)
    sign = rng.choice("+-")
    return rng.choice(
        (f"{a}{variable} {sign} {b}", f"{variable}^2 {sign} {b}{variable} + {c}", f"{a}{variable}^2 {sign} {c}")
    )
