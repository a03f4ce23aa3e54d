"""Sorting, letter by letter, written out by another program; and spoiled."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.checkers.base import Status, assess
from moe_bench.checkers.rules.order import read_chain
from moe_bench.checkers.rules.sorting import SortingChecker, read_words

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
Order = list[list[str]]

word_lists = st.lists(st.text("abc", min_size=2, max_size=5), min_size=3, max_size=7, unique=True)


def chain(order: Order, at: int | None = None) -> str:
    parts = []
    for group in order:
        text = f'"{group[0]}"' if len(group) == 1 else "[" + " ? ".join(f'"{w}"' for w in group) + "]"
        parts.append(f"({ord(group[0][at]) - 96}) {text}" if at is not None and at < len(group[0]) else text)
    return " < ".join(parts)


def letters(words: list[str], at: int) -> str:
    return " ".join(f'"{w}": "{w[at]}" ({ord(w[at]) - 96}).' for w in words if at < len(w))


def split(words: list[str], at: int) -> Order:
    key = lambda w: w[at : at + 1]  # noqa: E731
    return [list(group) for _, group in groupby(sorted(words, key=key), key=key)]


def worked(words: list[str]) -> list[str]:
    """The solution, as few-shot prompts of this task write it; words that end inside a part are avoided by the caller."""
    order = split(words, 0)
    steps = [
        f"I should start by looking at the first letter of the words in the list. The first letter: {letters(words, 0)}",
        f"We now have: {chain(order, 0)}.",
    ]
    while open_ := next((group for group in order if len(group) > 1), None):
        at = next(i for i in range(9) if len({w[i : i + 1] for w in open_}) > 1)
        finer = split(open_, at)
        part = "[" + " ? ".join(f'"{w}"' for w in open_) + "]"
        place = ORDINALS[at]
        steps.append(
            f"Now let's sort this subpart {part} by looking at their {place} letters. The {place} letter: {letters(open_, at)}"
        )
        order = [new for group in order for new in (finer if group is open_ else [group])]
        steps.append(f"We now have: {chain(finer, at)} for the subpart. Hence, we have {chain(order)}.")
    steps.append(f"I have now sorted all the words. The answer is {' '.join(w for group in order for w in group)}")
    return steps


def ends_inside(words: list[str]) -> bool:
    return any(a != b and b.startswith(a) for a in words for b in words)


@settings(max_examples=150, deadline=None)
@given(word_lists.filter(lambda words: not ends_inside(words)))
def test_worked_sorting_is_valid_and_solved(words: list[str]) -> None:
    problem, steps = " ".join(words), worked(words)
    found = assess(problem, steps, [SortingChecker()])
    assert [s.status for s in found.steps] == [Status.VALID] * len(steps), [s.reason for s in found.steps]
    assert SortingChecker().solve(problem) == " ".join(sorted(words)) == steps[-1].split("answer is ")[1]


@settings(max_examples=150, deadline=None)
@given(word_lists.filter(lambda words: not ends_inside(words)), st.data())
def test_exchanged_words_are_found_where_they_were_exchanged(words: list[str], data: st.DataObject) -> None:
    steps = worked(words)
    at = data.draw(st.integers(1, len(steps) - 1))
    body = steps[at].split("answer is ")[-1]
    there = [w for w in words if f'"{w}"' in body or w in body.split()]
    one, other = data.draw(st.permutations(there))[:2]
    if one[0] == other[0] and at < len(steps) - 1:
        return  # inside one open group the order says nothing
    spoil = {f'"{one}"': f'"{other}"', f'"{other}"': f'"{one}"', one: other, other: one}
    spoiled = " ".join(_replaced(word, spoil) for word in steps[at].split(" "))
    assert assess(" ".join(words), [*steps[:at], spoiled, *steps[at + 1 :]], [SortingChecker()]).first_invalid == at


def _replaced(word: str, spoil: dict[str, str]) -> str:
    core = word.strip("[].:")
    return word.replace(core, spoil.get(core, core)) if core else word


WORDS = "cat bird ant crow"
FIRST = 'The first letter: "cat": "c" (3). "bird": "b" (2). "ant": "a" (1). "crow": "c" (3).'
SECOND = 'We now have: (1) "ant" < (2) "bird" < (3) ["cat" ? "crow"].'
PART = (
    'Now let\'s sort this subpart ["cat" ? "crow"] by looking at their second letters. '
    'The second letter: "cat": "a" (1). "crow": "r" (18).'
)


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        ([FIRST.replace("(2)", "(3)")], 0),
        ([FIRST.replace('"bird": "b"', '"bird": "d"')], 0),
        ([FIRST.replace("bird", "birds")], 0),
        ([FIRST.replace('"ant": "a" (1). ', "")], 0),
        ([FIRST, SECOND.replace("(2)", "(4)")], 1),
        ([FIRST, SECOND.replace('["cat" ? "crow"]', '"cat"')], 1),
        ([FIRST, SECOND, PART.replace("second", "third")], 2),
        ([FIRST, SECOND, PART.replace('"crow"]', '"bird"]')], 2),
        (
            [
                f'{FIRST} {SECOND} {PART} We now have: (1) "cat" < (18) "crow" for the subpart. Hence, we have ant bird cat crow.'
            ],
            None,
        ),
        ([f"{FIRST} {SECOND}", 'Hence, we have "ant" < "bird" < "crow" < "cat".'], 1),
        ([f"{FIRST} {SECOND}", "The answer is ant bird cat crow"], None),
        ([f"{FIRST} {SECOND}", "The answer is ant bird crow cat"], 1),
    ],
)
def test_mistakes(steps: list[str], first: int | None) -> None:
    assert assess(WORDS, steps, [SortingChecker()]).first_invalid == first


def test_a_task_in_words_needs_no_letters() -> None:
    problem = "Sort the following words alphabetically: List: cat bird ant"
    assert SortingChecker().solve(problem) == "ant bird cat"
    assert assess(problem, ["So the answer is ant bird cat."], [SortingChecker()]).steps[0].status is Status.VALID
    assert assess(problem, ["So the answer is ant cat bird."], [SortingChecker()]).steps[0].status is Status.INVALID


def test_other_problems_are_left_alone() -> None:
    assert read_words("Ann has 3 apples.") is None
    assert read_words("Sort it out!") is None
    assert SortingChecker().check("what is the sum", ["The answer is 4."]) == []


def test_brackets_around_an_order() -> None:
    assert read_chain('"a" < ["b" < "c"] < ["d" ? "e"]').groups == (("a",), ("b",), ("c",), ("d", "e"))
