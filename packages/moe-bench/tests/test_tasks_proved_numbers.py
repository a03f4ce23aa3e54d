"""Levelled arithmetic and algebra, answered again from the text alone: by Python's own arithmetic and by sympy."""

from __future__ import annotations

import re

import pytest

from moe_bench.tasks import SUITES, make_items

NUMBER = re.compile(r"\d+")
EQUATION = re.compile(r"(?<![A-Za-z])[-\dxyzkmnpt(][-+\dxyzkmnpt() ]*=[-+\dxyzkmnpt() ]*[\dxyzkmnpt)](?![a-z])")


def _nested_expression(prompt: str) -> int:
    text = re.sub(r"^(What is|Work out|Find the value of|Calculate) |[.?]$", "", prompt)
    assert re.fullmatch(r"[\d+*/() -]+", text), text
    value = eval(text)
    assert value == int(value)
    return int(value)


def _ledger_story(prompt: str) -> int:
    person = re.match(r"\w+", prompt)[0]  # type: ignore[index]
    have = 0
    for sentence in prompt.split(". "):
        n = [int(x) for x in NUMBER.findall(sentence)]
        if re.match(rf"{person} has \d+", sentence):
            have = n[0]
        elif re.search("half of the", sentence):
            assert have % 2 == 0
            have //= 2
        elif re.search(r"packs with", sentence):
            have += n[0] * n[1]
        elif re.search(r"\b(finds|buys|gets|is given|wins) \d+ more", sentence):
            have += n[0]
        elif re.search(r"\b(loses|sells|gives|breaks|drops) \d+ of them", sentence):
            have -= n[0]
        else:
            assert re.search(r"years old|minutes away|neighbour|chairs|pages|^How many", sentence), sentence
    return have


def _remainder(prompt: str) -> int:
    if plain := re.search(r"when ([\d +*]+) is divided by (\d+)", prompt):
        return int(eval(plain[1])) % int(plain[2])
    *before, divisor = (int(n) for n in NUMBER.findall(prompt))
    if "trays" in prompt:
        return (before[0] * before[1] + sum(before[2:])) % divisor
    return sum(before) % divisor


def _solved(prompt: str) -> int:
    sympy = pytest.importorskip("sympy")
    from sympy.parsing.sympy_parser import implicit_multiplication, parse_expr, standard_transformations

    rules = (*standard_transformations, implicit_multiplication)
    asked = re.search(r"(?:for|Find|is|find|number) ([xyzkmnpt])\b", prompt)[1]  # type: ignore[index]
    text = prompt.replace(", ", " ; ").replace(". ", " ; ").replace(" and ", " ; ")
    equations = []
    for part in EQUATION.findall(text):
        left, right = part.split("=")
        equations.append(parse_expr(left, transformations=rules) - parse_expr(right, transformations=rules))
    (solution,) = sympy.solve(equations, dict=True)
    return int(solution[sympy.Symbol(asked)])


def _composed_functions(prompt: str) -> int:
    rules = dict(re.findall(r"([fgh])\(x\) = ([\dx^]+ [+-] \d+)", prompt))
    asked = re.findall(r"(?:[fgh]\()+\d+\)+(?: - (?:[fgh]\()+\d+\)+)?", prompt)[-1]
    code = {n: re.sub(r"(\d)x", r"\1*x", r).replace("^", "**") for n, r in rules.items()}
    functions = {name: eval(f"lambda x: {rule}") for name, rule in code.items()}
    return int(eval(asked, functions))


SOLVERS = {
    "nested_expression": _nested_expression,
    "ledger_story": _ledger_story,
    "remainder": _remainder,
    "linear_equation": _solved,
    "simultaneous": _solved,
    "composed_functions": _composed_functions,
}


def test_every_family_is_proved() -> None:
    assert SOLVERS.keys() == {*SUITES["arithmetic"], *SUITES["algebra"]}


@pytest.mark.parametrize("name", SOLVERS)
def test_answers_are_right(name: str) -> None:
    for item in make_items([name], count_per_family=100, seed=7):
        assert SOLVERS[name](item.prompt) == int(item.target), item


@pytest.mark.parametrize("name", SOLVERS)
def test_written_calculations_hold(name: str) -> None:
    for item in make_items([name], count_per_family=100, seed=3):
        for left, right in re.findall(r"(?:^|= )([\d(-][\d+*/() -]*) = (-?\d+)(?=$| =)", item.solution, re.MULTILINE):
            assert eval(left) == int(right), item
