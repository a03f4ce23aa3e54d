"""Deduction in levels: chains of rules, and what is true, false or unknown."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from moe_bench.tasks.family import LevelledFamily, Problem
from moe_bench.tasks.levelled.words import PEOPLE

_KINDS = (
    "wug", "blick", "dax", "fep", "zorp", "kiv", "nelp", "rund", "sibo", "tove", "borogove", "gimble", "lorp", "mimsy", "vorpal", "jabber",
    "quib", "snark", "tumtum", "wabe", "rath", "bander", "frume", "galump",
)  # fmt: skip
_TRAITS = (
    "red",
    "loud",
    "tall",
    "kind",
    "quick",
    "cold",
    "shy",
    "old",
    "small",
    "brave",
    "calm",
    "round",
    "rough",
    "green",
    "proud",
    "sleepy",
)
_CHAIN = (1, 2, 3, 4, 6)
_OTHERS = (0, 1, 2, 3, 5)


def _chain_rules(kinds: list[str]) -> list[str]:
    return [f"Every {a} is a {b}." for a, b in pairwise(kinds)]


def _followed(person: str, kinds: list[str]) -> list[str]:
    """The steps from what somebody is to the last of the kinds."""
    return [f"{person} is a {kinds[0]}.", *(f"Every {a} is a {b}, so {person} is a {b}." for a, b in pairwise(kinds))]


def rule_chain(rng: Random, level: int) -> Problem:
    """Whether a trait follows by a chain of rules; beside it stands another chain that ends in another trait and begins elsewhere."""
    length, others = _CHAIN[level - 1], _OTHERS[level - 1]
    kinds = rng.sample(_KINDS, length + others + 2)
    chain, side = kinds[: length + 1][:length], kinds[length + 1 :]
    trait, other = rng.sample(_TRAITS, 2)
    person = rng.choice(PEOPLE)
    rules = [
        *_chain_rules(chain),
        f"Every {chain[-1]} is {trait}.",
        *_chain_rules(side),
        f"Every {side[-1]} is {other}.",
    ]
    if level >= 3:  # the other chain leads into this one, not out of it
        rules.append(f"Every {side[0]} is a {rng.choice(chain)}.")
    rng.shuffle(rules)
    holds = rng.random() < 0.5
    steps = [*_followed(person, chain), f"Every {chain[-1]} is {trait}, so {person} is {trait}."]
    if not holds:
        steps.append(f"No rule says that {person} is {other}.")
    fact = f"{person} is a {chain[0]}."
    told = [*rules, fact] if rng.random() < 0.5 else [fact, *rules]
    ask = rng.choice(["Can we tell that {s}?", "Does it follow that {s}?", "Can we conclude that {s}?"])
    statement = f"{person} is {trait if holds else other}"
    return Problem(
        prompt=f"{' '.join(told)} {ask.format(s=statement)}",
        solution="\n".join(steps),
        answer="yes" if holds else "no",
        distractors=len(rules) - length if holds else 0,
    )


def three_valued_rules(rng: Random, level: int) -> Problem:
    """True, false or unknown: chains with "no", from level 4 on rules with two conditions."""
    length, others = (1, 2, 3, 3, 5)[level - 1], (0, 1, 2, 2, 4)[level - 1]
    kinds = rng.sample(_KINDS, length + others + 2)
    chain, side = kinds[:length], kinds[length : length + others + 1]
    traits = rng.sample(_TRAITS, 5)
    person = rng.choice(PEOPLE)
    verdict = rng.choice(["true", "false", "unknown"])
    denied, asked_denied = rng.random() < 0.5, rng.random() < 0.5
    if verdict != "unknown":
        asked_denied = denied == (verdict == "true")
    rules, steps, facts = _chain_rules(chain), _followed(person, chain), [f"{person} is a {chain[0]}."]
    is_or_not = "is not" if denied else "is"
    if level < 4:
        asked = traits[0] if verdict != "unknown" else traits[1]
        rules += [_universal(chain[-1], traits[0], denied=denied)]
        steps.append(f"{rules[-1].removesuffix('.')}, so {person} {is_or_not} {traits[0]}.")
        rules += [*_chain_rules(side), _universal(side[-1], traits[1], denied=rng.random() < 0.5)]
        if verdict == "unknown":
            steps.append(f"No rule says whether {person} is {asked}.")
    else:
        asked = traits[0]
        rules.append(f"Every {chain[-1]} is {traits[2]}.")
        steps.append(f"Every {chain[-1]} is {traits[2]}, so {person} is {traits[2]}.")
        rules.append(f"If someone is {traits[2]} and {traits[3]} then they are {'not ' if denied else ''}{traits[0]}.")
        if verdict != "unknown":
            facts.append(f"{person} is {traits[3]}.")
            steps += [f"{person} is {traits[3]}.", f"So {person} {is_or_not} {traits[0]}."]
        else:  # one of the two conditions is missing
            facts.append(f"{person} is {traits[4]}.")
            steps.append(f"No rule says whether {person} is {traits[3]}, and so none whether {person} is {asked}.")
        rules += [*_chain_rules(side), f"Every {side[-1]} is {traits[1]}."]
    told = [*rules, *facts]
    rng.shuffle(told)
    statement = f"{person} is {'not ' if asked_denied else ''}{asked}."
    ask = rng.choice(["True, false or unknown: {s}", "Unknown, true or false: {s}"])
    return Problem(
        prompt=f"{' '.join(told)} {ask.format(s=statement)}",
        solution="\n".join(steps),
        answer=verdict,
        choices=("true", "false", "unknown"),
        distractors=len(side),
    )


def _universal(kind: str, trait: str, *, denied: bool) -> str:
    return f"No {kind} is {trait}." if denied else f"Every {kind} is {trait}."


FAMILIES = (
    LevelledFamily(
        name="rule_chain",
        operation="deduction",
        description="whether a chain of rules leads to a statement",
        answer_kind="boolean",
        levels=tuple(
            f"{n} rule{'s' if n > 1 else ''}, {m + 1} that lead elsewhere" for n, m in zip(_CHAIN, _OTHERS, strict=True)
        ),
        generate=rule_chain,
    ),
    LevelledFamily(
        name="three_valued_rules",
        operation="deduction",
        description="true, false or unknown by rules",
        answer_kind="choice",
        levels=("1 rule", "2 rules", "3 rules", "4 rules, one with two conditions", "6 rules, one with two conditions"),
        generate=three_valued_rules,
    ),
)
