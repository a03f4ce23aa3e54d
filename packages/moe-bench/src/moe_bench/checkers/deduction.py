"""Checks conclusions against facts and rules: what follows is valid with its proof, what is refuted is invalid, the rest is unchecked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from moe_bench.checkers.base import Finding, Status
from moe_bench.checkers.rules.conclusion import chosen, options, stated_answer
from moe_bench.errors import BenchError
from moe_bench.logic import Decision, Literal, Prover, Reader, Rule, UnreadableError, Verdict, World
from moe_bench.logic.lexicon import sentences

SHARE_READ = 0.8
"""The share of a problem's sentences that must be in the language before its silence or its rules are trusted."""
_TASK = re.compile(r"^\s*(?:question|premises?|context|facts?|rules?|conclusion|statement)\s*:\s*", re.IGNORECASE)
_ASKED = re.compile(
    r"\b(?:true|false|unknown|uncertain)\b[^.?!\n]*[?:]\s*(?P<statement>[^?!\n]+?)[.?]?\s*(?:\n|$)", re.IGNORECASE
)
_DERIVE = re.compile(
    r"\b(?:can we (?:tell|conclude|infer|say)|does it follow|is it true) that (?P<statement>[^?.\n]+)\?", re.IGNORECASE
)
_CLOSED = re.compile(r"\bclosed[- ]world\b|\bwhat (?:is not stated|cannot be proved) is false\b", re.IGNORECASE)
_JOINTS = re.compile(
    r"(?:,\s*|;\s*|\s+|^)(?:and\s+)?(?:so|therefore|thus|hence|consequently|because|since|which means(?: that)?|this means(?: that)?|"
    r"it follows that|we (?:know|conclude|can conclude|see|infer)(?: that)?)\b,?\s*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"^\s*(?:\(?\d+[.):]|[-*•]|step \d+[:.]?|first|second|third|next|finally|then|now|also|but|again|given that|from [^,]*),?\s+",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:suppose|assume|assuming|imagine|let us say|if we|would|could|might|may|whether|no rule)\b", re.IGNORECASE
)
_ANSWERS = {
    "true": Verdict.PROVED,
    "yes": Verdict.PROVED,
    "false": Verdict.DISPROVED,
    "no": Verdict.DISPROVED,
    "unknown": Verdict.UNKNOWN,
    "uncertain": Verdict.UNKNOWN,
}


@dataclass(frozen=True, kw_only=True)
class Deduction:
    """A problem of facts and rules."""

    premises: tuple[Rule, ...]
    asked: str | None
    """The statement that is to be judged; None where none shows."""
    derivable: bool
    """Whether it is asked if the statement follows ("can we tell that ...?"), so that "no" says only that it does not."""
    three: bool
    """Whether "unknown" is one of the answers asked for."""
    world: World
    coverage: float
    """Share of the problem's sentences, the question apart, that are in the language."""
    choices: dict[str, str] = field(default_factory=dict)
    reader: Reader

    @property
    def complete(self) -> bool:
        """Whether what does not follow is known not to: every sentence was read, and no phrase of several words was taken as a whole,
        behind which there may be more than the rules say.
        """
        named = {literal.predicate for rule in self.premises for literal in (*rule.body, *rule.head)}
        return self.coverage == 1.0 and all(" " not in predicate for predicate in named)


def read_deduction(problem: str) -> Deduction | None:
    """The problem, where it is one: at least one rule and nearly all of its sentences in the language. Else None."""
    body = re.split(r"\bOptions\b\s*:?|^\s*\(?A\)", problem, maxsplit=1, flags=re.MULTILINE)[0]
    derive = _DERIVE.search(body)
    question = derive or _ASKED.search(body)
    asked = question["statement"].strip() if question else None
    told = [
        _TASK.sub("", sentence)
        for begin, end, sentence in sentences(body)
        if body[end : end + 1] != "?" and not (question and question.start() <= begin and end <= question.end() + 1)
    ]
    told = [sentence for sentence in told if sentence and not _CLOSED.search(sentence)]
    reader = Reader([". ".join(told), asked or ""])
    reading = reader.text(". ".join(told))
    rules = [rule for rule in reading.rules if rule.body]
    if not rules or reading.coverage < SHARE_READ:
        return None
    return Deduction(
        premises=reading.rules,
        asked=asked,
        derivable=derive is not None,
        three=re.search(r"\b(?:unknown|uncertain)\b", problem, re.IGNORECASE) is not None,
        world=World.CLOSED if _CLOSED.search(problem) else World.OPEN,
        coverage=reading.coverage,
        choices=options(problem),
        reader=reader,
    )


class DeductionChecker:
    """Proves or refutes what steps claim from the problem's facts and rules, by classical logic.

    What is neither proved nor refuted is unchecked: unknown is not false. In a closed world, which the problem must declare and be read
    completely, what does not follow is false.
    """

    name = "deduction"
    version = 1

    def solve(self, problem: str) -> Verdict | None:
        """What rules applied forwards say of the statement asked for; None where not all of it is in the language."""
        deduction = read_deduction(problem)
        if deduction is None or deduction.asked is None or not deduction.complete:
            return None
        try:
            statement = deduction.reader.statement(deduction.asked)
            return Prover(deduction.premises, world=deduction.world, forward=True).decide(statement).verdict
        except (UnreadableError, BenchError):
            return None

    def check(self, problem: str, steps: Sequence[str]) -> Iterable[Finding]:
        """Findings on every sentence of a step that is in the language, and on the answer."""
        deduction = read_deduction(problem)
        if deduction is None or (deduction.world is World.CLOSED and not deduction.complete):
            return []
        try:
            return list(_Argument(deduction, self.name).findings(steps))
        except BenchError:
            # Too many things and rules to try: nothing is decided.
            return []


class _Argument:
    def __init__(self, deduction: Deduction, checker: str) -> None:
        self._deduction = deduction
        self._checker = checker
        self._prover = Prover(deduction.premises, world=deduction.world)
        self._claimed: list[tuple[int, Rule]] = []
        """What earlier steps claim without being proved, and which step."""

    def findings(self, steps: Sequence[str]) -> Iterator[Finding]:
        if self._prover.contradictory:
            return
        for number, step in enumerate(steps):
            for begin, end, sentence in sentences(step):
                answer = stated_answer(sentence)
                if answer:
                    yield from self._answer(number, answer.answer, (begin + answer.span[0], begin + answer.span[1]))
                elif not _SUPPOSED.search(sentence):
                    yield from self._sentence(number, sentence, (begin, end))

    def _sentence(self, number: int, sentence: str, span: tuple[int, int]) -> Iterator[Finding]:
        bare = _NUMBERED.sub("", sentence)
        for part in _JOINTS.split(bare):
            text = _NUMBERED.sub("", part).strip(" ,")
            try:
                rules = self._deduction.reader.rules(text)
            except UnreadableError:
                continue
            at = sentence.find(text)
            where = (span[0] + at, span[0] + at + len(text)) if at >= 0 else span
            for rule in rules:
                yield self._claim(number, rule, where)

    def _claim(self, number: int, rule: Rule, span: tuple[int, int]) -> Finding:
        if not rule.is_fact:
            return self._rule(number, rule, span)
        statement = rule.head[0]
        decision = self._prover.decide(statement)
        if decision.proof is not None:
            status = Status.VALID if decision.verdict is Verdict.PROVED else Status.INVALID
            return self._finding(number, status, _reason(statement, decision), span)
        support = self._supported(statement)
        self._claimed.append((number, rule))
        if support is not None:
            reason = f"{statement}: follows only with step {support + 1}, which is not established"
        else:
            reason = f"{statement}: neither it nor its contrary follows" + (
                f" ({decision.note})" if decision.note else ""
            )
        return self._finding(number, Status.UNCHECKED, reason, span)

    def _rule(self, number: int, rule: Rule, span: tuple[int, int]) -> Finding:
        """A rule that a step states: a premise said again, or one that follows."""
        stated = any((p.body, p.head) == (rule.body, rule.head) for p in self._deduction.premises)
        if stated or self._prover.entails(rule):
            return self._finding(
                number, Status.VALID, f"{rule}: {'a premise' if stated else 'follows from the premises'}", span
            )
        self._claimed.append((number, rule))
        return self._finding(number, Status.UNCHECKED, f"{rule}: no premise, and it does not follow", span)

    def _supported(self, statement: Literal) -> int | None:
        """The last step whose unproved claims, with those before, make a statement follow; None where they do not."""
        if not self._claimed or self._deduction.world is World.CLOSED:
            return None
        with_claims = Prover([*self._deduction.premises, *(rule for _, rule in self._claimed)])
        decision = with_claims.decide(statement)
        if decision.verdict is not Verdict.PROVED or decision.proof is None:
            return None
        first = len(self._deduction.premises)
        used = [self._claimed[i - first][0] for i in decision.proof.premises_used if i >= first]
        return max(used, default=None)

    def _answer(self, number: int, answer: str, span: tuple[int, int]) -> Iterator[Finding]:
        letter = chosen(answer, self._deduction.choices)
        words = re.findall(r"[a-z]+", (self._deduction.choices[letter] if letter else answer).lower())
        said = _ANSWERS.get(words[0]) if words else None
        if said is None or self._deduction.asked is None:
            return
        try:
            statement = self._deduction.reader.statement(self._deduction.asked)
        except UnreadableError:
            return
        decision = self._prover.decide(statement)
        if decision.proof is not None:
            # Where rules forwards reach nothing but classical logic does, data sets differ on what is right.
            forward = Prover(self._deduction.premises, world=self._deduction.world, forward=True).decide(statement)
            agreed = forward.verdict is decision.verdict
            status = Status.UNCHECKED if not agreed else Status.VALID if said is decision.verdict else Status.INVALID
            yield self._finding(number, status, _reason(statement, decision), span)
        elif self._deduction.complete and not decision.note:
            # Where "unknown" is no answer, "false" may mean that it does not follow.
            two = not self._deduction.three and not self._deduction.derivable
            right = said is Verdict.UNKNOWN or (self._deduction.derivable and said is Verdict.DISPROVED)
            status = Status.VALID if right else Status.UNCHECKED if two else Status.INVALID
            yield self._finding(number, status, f"{statement}: neither it nor its contrary follows", span)

    def _finding(self, step: int, status: Status, reason: str, span: tuple[int, int]) -> Finding:
        return Finding(step=step, status=status, checker=self._checker, reason=reason, span=span)


def _reason(statement: Literal, decision: Decision) -> str:
    """The proof in one line."""
    proof = decision.proof
    if proof is None:
        return str(statement)
    used = [proof.premises[i].text or str(proof.premises[i]) for i in proof.premises_used]
    verdict = "follows" if decision.verdict is Verdict.PROVED else f"is refuted, {proof.conclusion} follows"
    return (
        f"{statement}: {verdict} from {'; '.join(used)}"
        if used
        else f"{statement}: {verdict}, for nothing makes the contrary true"
    )
