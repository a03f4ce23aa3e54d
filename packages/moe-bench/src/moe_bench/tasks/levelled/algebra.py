"""Algebra in levels: equations with one unknown, with several, and functions put into each other."""

from __future__ import annotations

from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem

_LETTERS = "xyzkmnpt"


def _linear(coefficient: int, letter: str, constant: int = 0) -> str:
    """Such as "3x - 4", "-x", "5"."""
    term = "" if coefficient == 0 else {1: letter, -1: f"-{letter}"}.get(coefficient, f"{coefficient}{letter}")
    if constant == 0:
        return term or "0"
    if not term:
        return str(constant)
    return f"{term} {'+' if constant > 0 else '-'} {abs(constant)}"


def _nonzero(rng: Random, low: int, high: int) -> int:
    return rng.choice([n for n in range(low, high + 1) if n != 0])


def _finish(letter: str, a: int, b: int, c: int, d: int) -> list[str]:
    """The steps from ax + b = cx + d to the value of x, which is a whole number."""
    steps = list[str]()
    if c:
        steps.append(f"{_linear(a - c, letter, b)} = {d}")
    if b:
        steps.append(f"{_linear(a - c, letter)} = {d} {'-' if b > 0 else '+'} {abs(b)} = {d - b}")
    if a - c != 1:
        steps.append(f"{letter} = {d - b} / {a - c if a > c else f'({a - c})'} = {(d - b) // (a - c)}")
    return steps


def linear_equation(rng: Random, level: int) -> Problem:
    """One unknown, whole numbers; brackets from level 4."""
    letter = rng.choice(_LETTERS)
    x = rng.randint(1, 20) if level < 3 else _nonzero(rng, -12, 15)
    steps = list[str]()
    if level <= 3:
        a = 1 if level == 1 else rng.randint(2, 9)
        b = _nonzero(rng, -20, 20) if level == 1 else _nonzero(rng, -30, 30)
        c = 0 if level < 3 else rng.choice([n for n in range(-6, 10) if n not in (0, a)])
        d = (a - c) * x + b
        equation = f"{_linear(a, letter, b)} = {_linear(c, letter, d)}"
    else:
        p, q = rng.randint(2, 7), _nonzero(rng, -9, 9)
        r, s = (rng.randint(2, 7), _nonzero(rng, -9, 9)) if level == 5 else (0, 0)
        a, b = p - r, p * q - r * s
        c = rng.choice([n for n in range(-5, 8) if n not in (0, a)])
        d = (a - c) * x + b
        right = _linear(c, letter, d)
        equation = f"{p}({_linear(1, letter, q)})"
        opened = _linear(p, letter, p * q)
        if level == 5:
            equation += f" - {r}({_linear(1, letter, s)})"
            opened += f" - {r}{letter} {'-' if s > 0 else '+'} {abs(r * s)}"
        equation += f" = {right}"
        steps.append(f"{opened} = {right}")
        if level == 5:
            steps.append(f"{_linear(a, letter, b)} = {right}")
    steps += _finish(letter, a, b, c, d)
    ask = rng.choice(["Solve {e} for {l}.", "What is {l} if {e}?", "{e}. Find {l}.", "Find the number {l} with {e}."])
    return Problem(prompt=ask.format(e=equation, l=letter), solution="\n".join(steps), answer=str(x))


def simultaneous(rng: Random, level: int) -> Problem:
    """Several unknowns, one of which is asked for."""
    first, second, third = rng.sample(_LETTERS, 3)
    x, y = rng.sample(range(2, 16 if level < 4 else 13), 2)
    asked, steps, equations = first, list[str](), list[str]()
    if level == 1:
        equations = [f"{second} = {y}", f"{first} + {second} = {x + y}"]
        steps = [f"{first} = {x + y} - {y} = {x}"]
    elif level == 2:
        x, y = max(x, y), min(x, y)
        equations = [f"{first} + {second} = {x + y}", f"{first} - {second} = {x - y}"]
        steps = [f"2{first} = {x + y} + {x - y} = {2 * x}", f"{first} = {2 * x} / 2 = {x}"]
        if rng.random() < 0.5:
            asked = second
            steps.append(f"{second} = {x + y} - {x} = {y}")
    elif level == 3:
        a = rng.randint(3, 9)
        equations = [f"{a}{first} + {second} = {a * x + y}", f"{first} + {second} = {x + y}"]
        steps = [
            f"{a - 1}{first} = {a * x + y} - {x + y} = {(a - 1) * x}",
            f"{first} = {(a - 1) * x} / {a - 1} = {x}",
        ]
        if rng.random() < 0.5:
            asked = second
            steps.append(f"{second} = {x + y} - {x} = {y}")
    else:
        a, b, c, d = _two_by_two(rng)
        p, q = a * x + b * y, c * x + d * y
        equations = [f"{a}{first} + {b}{second} = {p}", f"{c}{first} + {d}{second} = {q}"]
        # d times the first less b times the second leaves the first unknown alone.
        k, value = a * d - b * c, p * d - q * b
        steps = [
            f"{a * d}{first} + {b * d}{second} = {p * d}",
            f"{c * b}{first} + {d * b}{second} = {q * b}",
            f"{_linear(k, first)} = {p * d} - {q * b} = {value}",
            *([] if k == 1 else [f"{first} = {value} / {k if k > 0 else f'({k})'} = {x}"]),
            f"{b}{second} = {p} - {a} * {x} = {p - a * x}",
            f"{second} = {p - a * x} / {b} = {y}",
        ]
        if level == 5:
            u, v, z = rng.randint(2, 5), rng.randint(2, 5), rng.randint(2, 20)
            equations.append(f"{u}{first} + {v}{second} + {third} = {u * x + v * y + z}")
            rng.shuffle(equations)
            asked = third
            steps.append(f"{third} = {u * x + v * y + z} - {u} * {x} - {v} * {y} = {z}")
        elif rng.random() < 0.5:
            asked = second
        else:
            steps = steps[:-2]
    answer = {first: x, second: y}.get(asked)
    value = z if answer is None else answer
    told = f"{', '.join(equations[:-1])} and {equations[-1]}"
    ask = rng.choice(["{e}. What is {l}?", "Find {l} if {e}.", "What is {l} if {e}?", "Given that {e}, find {l}."])
    return Problem(prompt=ask.format(e=told, l=asked), solution="\n".join(steps), answer=str(value))


def _two_by_two(rng: Random) -> tuple[int, int, int, int]:
    """Coefficients from 2 on, of two equations neither of which is a multiple of the other."""
    while True:
        a, b, c, d = (rng.randint(2, 7) for _ in range(4))
        if a * d != b * c:
            return a, b, c, d


def composed_functions(rng: Random, level: int) -> Problem:
    """Functions put into each other; a square from level 4, two values at level 5."""
    names = ("f", "g", "h")[: (1, 2, 2, 3, 3)[level - 1]]
    rules = {name: (rng.randint(2, 6), _nonzero(rng, -9, 9)) for name in names}
    squared = rng.choice(names) if level >= 4 else ""

    def applied(name: str, x: int) -> tuple[int, str]:
        a, b = rules[name]
        inner = str(x) if x >= 0 else f"({x})"
        tail = f"{'+' if b > 0 else '-'} {abs(b)}"
        if name == squared:
            return x * x + b, f"{name}({x}) = {inner} * {inner} {tail} = {x * x + b}"
        return a * x + b, f"{name}({x}) = {a} * {inner} {tail} = {a * x + b}"

    def chain(length: int) -> tuple[str, int, list[str]]:
        x = rng.randint(1, 5)
        order = list(names) if length == len(names) else [rng.choice(names) for _ in range(length)]
        rng.shuffle(order)
        text, steps = str(x), list[str]()
        for name in order:
            text = f"{name}({text})"
            x, step = applied(name, x)
            steps.append(step)
        return text, x, steps

    text, value, steps = chain((1, 2, 3, 3, 3)[level - 1])
    if level == 5:
        other, less, more = chain(2)
        steps += [
            *(step for step in more if step not in steps),
            f"{value} - {less if less >= 0 else f'({less})'} = {value - less}",
        ]
        text, value = f"{text} - {other}", value - less
    told = [
        f"{name}(x) = {'x^2' if name == squared else f'{a}x'} {'+' if b > 0 else '-'} {abs(b)}"
        for name, (a, b) in rules.items()
    ]
    told_text = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    ask = rng.choice(["Let {r}. What is {e}?", "{r}. Find {e}.", "If {r}, what is {e}?"])
    return Problem(prompt=ask.format(r=told_text, e=text), solution="\n".join(steps), answer=str(value))


FAMILIES = (
    LevelledFamily(
        name="linear_equation",
        operation="algebra",
        description="one unknown",
        answer_kind="number",
        levels=("x + a = b", "ax + b = c", "ax + b = cx + d", "a bracket", "two brackets"),
        generate=linear_equation,
    ),
    LevelledFamily(
        name="simultaneous",
        operation="algebra",
        description="several unknowns, one asked for",
        answer_kind="number",
        levels=(
            "one of two given",
            "sum and difference",
            "one subtraction removes an unknown",
            "both equations must be multiplied",
            "as before, then put into a third",
        ),
        generate=simultaneous,
    ),
    LevelledFamily(
        name="composed_functions",
        operation="algebra",
        description="functions put into each other",
        answer_kind="number",
        levels=("1 application", "2", "3", "3, one of them a square", "3 and 2, and their difference"),
        generate=composed_functions,
    ),
)
