"""Controlled English: what is written from rules is read back as those rules; what is not in the language is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.logic import Literal, Reader, Rule, UnreadableError

NAMES, TRAITS, VERBS = ("Anne", "Bob", "the bald eagle", "the cat"), ("red", "kind", "smart"), ("like", "chase", "need")
FIXED = "Anne is red. Bob is red. The bald eagle is red. The cat is red."
X = "?x"


def thing(name: str) -> str:
    return name.removeprefix("the ").lower()


@st.composite
def claims(draw: st.DrawFn, subject: str) -> tuple[str, Literal]:
    """A clause about a subject, in words and as a literal; "someone" is the variable."""
    positive = draw(st.booleans())
    at = X if subject in {"someone", "they"} else thing(subject)
    plural = subject == "they"
    if draw(st.booleans()):
        trait = draw(st.sampled_from(TRAITS))
        return f"{subject} {'are' if plural else 'is'} {'' if positive else 'not '}{trait}", Literal(
            trait, (at,), positive
        )
    verb, target = draw(st.sampled_from(VERBS)), draw(st.sampled_from(NAMES))
    denial = "do not" if plural else "does not"
    said = (verb if plural else f"{verb}s") if positive else f"{denial} {verb}"
    return f"{subject} {said} {target}", Literal(verb, (at, thing(target)), positive)


@st.composite
def conditionals(draw: st.DrawFn) -> tuple[str, Rule]:
    subject = draw(st.sampled_from(["someone", *NAMES]))
    again = "they" if subject == "someone" else subject
    parts = [draw(claims(subject)), *(draw(claims(again)) for _ in range(draw(st.integers(0, 2))))]
    conclusion = draw(claims(draw(st.sampled_from([again, *NAMES]))))
    text = f"If {' and '.join(words for words, _ in parts)} then {conclusion[0]}."
    return text, Rule(tuple(literal for _, literal in parts), (conclusion[1],))


@settings(max_examples=300, deadline=None)
@given(conditionals())
def test_conditionals_are_read_back(written: tuple[str, Rule]) -> None:
    text, rule = written
    (read,) = Reader([FIXED, text]).rules(text)
    assert (read.body, read.head) == (rule.body, rule.head)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_facts_are_read_back(data: st.DataObject) -> None:
    words, literal = data.draw(claims(data.draw(st.sampled_from(NAMES))))
    text = words[0].upper() + words[1:] + "."
    assert Reader([FIXED, text]).statement(text) == literal


def rule(body: list[str], head: str) -> tuple[tuple[Literal, ...], tuple[Literal, ...]]:
    return tuple(Literal(b, (X,)) for b in body), (Literal(head.removeprefix("-"), (X,), not head.startswith("-")),)


@pytest.mark.parametrize(
    ("text", "body", "head"),
    [
        ("Every wumpus is a dumpus.", ["wumpus"], "dumpus"),
        ("Each wumpus is not shy.", ["wumpus"], "-shy"),
        ("Wumpuses are dumpuses.", ["wumpus"], "dumpus"),
        ("Wumpuses are not serious.", ["wumpus"], "-serious"),
        ("A wumpus is a dumpus.", ["wumpus"], "dumpus"),
        ("No wumpus is a dumpus.", ["wumpus"], "-dumpus"),
        ("No wumpuses are dumpuses.", ["wumpus"], "-dumpus"),
        ("All cats are animals.", ["cat"], "animal"),
        ("All flies are insects.", ["fly"], "insect"),
        ("All red, kind things are smart.", ["red", "kind"], "smart"),
        ("Red, kind people are smart.", ["red", "kind"], "smart"),
        ("Red and kind people are not smart.", ["red", "kind"], "-smart"),
        ("All red people are smart.", ["red"], "smart"),
        ("Everything that is red is smart.", ["red"], "smart"),
        ("Everyone who is red and kind is smart.", ["red", "kind"], "smart"),
        ("If something is red and kind then it is smart.", ["red", "kind"], "smart"),
        ("If someone is red, then they are smart.", ["red"], "smart"),
        ("If a person is red, then he is not smart.", ["red"], "-smart"),
        ("All employees who swim are fast runners.", ["employee", "to swim"], "fast runner"),
        ("Dogs loved by young people are smart.", ["dog loved by young person"], "smart"),
    ],
)
def test_classes_and_quantifiers(text: str, body: list[str], head: str) -> None:
    (read,) = Reader([text, "Cats, a fly, a wumpus."]).rules(text)
    assert (read.body, read.head) == rule(body, head)


def test_or_gives_alternatives_or_several_rules() -> None:
    reader = Reader(["Max is red."])
    (alternative,) = reader.rules("Max is red or kind.")
    assert alternative.head == (Literal("red", ("max",)), Literal("kind", ("max",)))
    several = reader.rules("If someone is red or kind then they are smart.")
    assert [r.body for r in several] == [(Literal("red", (X,)),), (Literal("kind", (X,)),)]


def test_comparison_with_a_named_thing() -> None:
    reader = Reader(["Max is older than Tim."])
    assert reader.statement("Max is older than Tim.") == Literal("older than", ("max", "tim"))


@pytest.mark.parametrize(
    "text",
    [
        "Some cats are red.",
        "Most people are kind.",
        "Only cats are red.",
        "Max was red.",
        "Max will be red.",
        "Max might be red.",
        "Max has 3 apples.",
        "Max is red and kind or smart.",
        "Max is not red or kind.",
        "It is red.",
        "Someone is red.",
        "If Max is red then something is kind.",
        "If either Max is red or Tim is red then Bob is kind.",
        "If Max likes Tim and Tim likes Max then he is kind.",
        "If Max is red.",
        "Max is the king.",
        "No cat is red and kind.",
        "Max is red because Tim is kind.",
        "Max is a cat that is red.",
        "Max, if red, is kind.",
        "",
    ],
)
def test_what_is_not_in_the_language_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError):
        Reader(["Max is red. Tim is red. Bob is red.", text]).rules(text)


def test_coverage_counts_sentences() -> None:
    reading = Reader(["Max is red. Some cats are kind."]).text("Max is red. Some cats are kind.")
    assert reading.coverage == 0.5
    assert reading.unread == ("Some cats are kind",)
    assert Reader([""]).text("").coverage == 0.0


def test_a_rule_is_no_statement() -> None:
    with pytest.raises(UnreadableError, match="not one statement"):
        Reader(["Cats are red."]).statement("Cats are red.")
