"""Arithmetic with written steps, and one-unknown equations."""

from __future__ import annotations

from random import Random

from moe_bench.tasks.family import NAMES, THINGS, Family, Problem


def _addition_steps(a: int, b: int) -> str:
    if a < 10 or b < 10:
        return f"{a}+{b}={a + b}"
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return f"{a // 10 * 10}+{b // 10 * 10}={tens}\n{a % 10}+{b % 10}={ones}\n{tens}+{ones}={a + b}"


def _subtraction_steps(a: int, b: int) -> str:
    if b < 10:
        return f"{a}-{b}={a - b}"
    tens = b // 10 * 10
    return f"{a}-{tens}={a - tens}\n{a - tens}-{b % 10}={a - b}"


def _product_steps(a: int, b: int) -> str:
    if b < 10:
        return f"{a}*{b}={a * b}"
    tens = b // 10 * 10
    return f"{a}*{tens}={a * tens}\n{a}*{b % 10}={a * (b % 10)}\n{a * tens}+{a * (b % 10)}={a * b}"


def addition(rng: Random) -> Problem:
    """Two numbers of up to two digits, added by place."""
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    ask = rng.choice(["What is {a} + {b}?", "Add {a} and {b}.", "Find the sum of {a} and {b}."])
    return Problem(prompt=ask.format(a=a, b=b), solution=_addition_steps(a, b), answer=str(a + b))


def subtraction(rng: Random) -> Problem:
    """A difference of numbers of up to two digits, never negative."""
    a, b = sorted((rng.randint(2, 99), rng.randint(2, 99)), reverse=True)
    ask = rng.choice(["What is {a} - {b}?", "Subtract {b} from {a}.", "Take {b} away from {a}."])
    return Problem(prompt=ask.format(a=a, b=b), solution=_subtraction_steps(a, b), answer=str(a - b))


def multiplication(rng: Random) -> Problem:
    """A one-digit number times a number of up to two digits, by place."""
    a, b = rng.randint(2, 9), rng.randint(2, 59)
    ask = rng.choice(["What is {a} * {b}?", "Multiply {a} by {b}.", "Find the product of {a} and {b}."])
    return Problem(prompt=ask.format(a=a, b=b), solution=_product_steps(a, b), answer=str(a * b))


def division(rng: Random) -> Problem:
    """An exact quotient, checked by the product."""
    a, b = rng.randint(2, 9), rng.randint(2, 49)
    ask = rng.choice(["What is {c} / {a}?", "Divide {c} by {a}.", "How often does {a} go into {c}?"])
    return Problem(prompt=ask.format(c=a * b, a=a), solution=f"{a}*{b}={a * b}\n{a * b}/{a}={b}", answer=str(b))


def one_step_story(rng: Random) -> Problem:
    """A word problem of one addition or subtraction."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(11, 89), rng.randint(2, 9)
    if rng.random() < 0.5:
        verb = rng.choice(["finds", "buys", "gets"])
        prompt = f"{name} has {a} {thing}. {name} {verb} {b} more. How many {thing} does {name} have now?"
        return Problem(prompt=prompt, solution=f"{a}+{b}={a + b}", answer=str(a + b))
    verb = rng.choice(["loses", "sells", "gives away"])
    prompt = f"{name} has {a} {thing}. {name} {verb} {b}. How many {thing} are left?"
    return Problem(prompt=prompt, solution=f"{a}-{b}={a - b}", answer=str(a - b))


def groups_story(rng: Random) -> Problem:
    """A word problem of one multiplication."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    box = rng.choice(["boxes", "bags", "trays", "jars"])
    a, b = rng.randint(2, 9), rng.randint(2, 12)
    prompt = f"{name} has {a} {box} with {b} {thing} in each. How many {thing} is that?"
    return Problem(prompt=prompt, solution=_product_steps(a, b), answer=str(a * b))


def equation_add(rng: Random) -> Problem:
    """X + a = b, solved by subtraction."""
    x, a = rng.randint(2, 60), rng.randint(2, 39)
    letter = rng.choice("xyn")
    return Problem(
        prompt=f"{letter} + {a} = {x + a}. What is {letter}?",
        solution=f"{letter}={x + a}-{a}\n{_subtraction_steps(x + a, a)}",
        answer=str(x),
    )


def equation_two_step(rng: Random) -> Problem:
    """A x + b = c, solved by a subtraction and a division."""
    a, x, b = rng.randint(2, 9), rng.randint(2, 12), rng.randint(2, 30)
    c = a * x + b
    letter = rng.choice("xyn")
    return Problem(
        prompt=f"{a} * {letter} + {b} = {c}. What is {letter}?",
        solution=f"{a}*{letter}={c}-{b}\n{_subtraction_steps(c, b)}\n{a}*{x}={a * x}\n{letter}={a * x}/{a}",
        answer=str(x),
    )


def change(rng: Random) -> Problem:
    """A purchase paid with a round sum: a product, then a difference."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    count, price = rng.randint(2, 9), rng.randint(2, 12)
    cost = count * price
    paid = rng.choice([p for p in (20, 50, 100, 150) if p > cost])
    prompt = (
        f"{name} buys {count} {thing} at {price} dollars each and pays with {paid}. How much change does {name} get?"
    )
    return Problem(
        prompt=prompt,
        solution=f"{_product_steps(count, price)}\n{_subtraction_steps(paid, cost)}",
        answer=str(paid - cost),
    )


def sequence(rng: Random) -> Problem:
    """The next term of an arithmetic sequence."""
    start, step = rng.randint(1, 40), rng.randint(2, 9)
    terms = [start + i * step for i in range(4)]
    ask = rng.choice(["What comes next: {s}?", "Continue: {s}.", "Find the next number: {s}."])
    solution = f"{terms[1]}-{terms[0]}={step}\n{terms[3]}+{step}={terms[3] + step}"
    return Problem(prompt=ask.format(s=" ".join(map(str, terms))), solution=solution, answer=str(terms[3] + step))


FAMILIES = (
    Family(name="addition", operation="calculate", description="add two numbers by place", generate=addition),
    Family(name="subtraction", operation="calculate", description="subtract by place", generate=subtraction),
    Family(name="multiplication", operation="calculate", description="multiply by place", generate=multiplication),
    Family(name="division", operation="calculate", description="exact division", generate=division),
    Family(
        name="one_step_story",
        operation="calculate",
        description="story of one sum or difference",
        generate=one_step_story,
    ),
    Family(name="groups_story", operation="calculate", description="story of equal groups", generate=groups_story),
    Family(name="equation_add", operation="transform", description="solve x + a = b", generate=equation_add),
    Family(
        name="equation_two_step", operation="transform", description="solve a x + b = c", generate=equation_two_step
    ),
    Family(name="change", operation="calculate", description="change from a purchase, two steps", generate=change),
    Family(name="sequence", operation="calculate", description="next term of a sequence", generate=sequence),
)
