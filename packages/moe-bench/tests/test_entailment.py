"""The plug-in point for models of natural-language inference, with packages that are really installed."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from moe_bench.checkers.base import assess
from moe_bench.checkers.consistency import ConsistencyChecker, make_entailment
from moe_bench.checkers.consistency.entailment import GROUP, installed
from moe_bench.errors import BenchError


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that puts a distribution with an entry point on the path, as pip does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def put(name: str, source: str, *, attribute: str = "Model", version: str = "1.0") -> None:
        module = f"nli_of_{name}"
        made.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}:{attribute}\n", encoding="utf-8")

    yield put
    for module in made:
        sys.modules.pop(module, None)


WORDS = """
    class Model:
        protocol = 1
        name = "word overlap"

        def relate(self, pairs):
            return [("contradict" if "not" in h.split() and h.replace("not ", "") == p else "neutral", 0.95) for p, h in pairs]
"""


def test_without_a_model_nothing_stands_in_for_one() -> None:
    assert ConsistencyChecker().entailment is None
    with pytest.raises(BenchError, match="'mnli' is not installed; installed are none"):
        make_entailment("mnli")


def test_an_installed_model_is_asked_about_every_earlier_step(install) -> None:
    install("words", WORDS)
    assert set(installed().found) == {"words"}
    checker = ConsistencyChecker(make_entailment("words"))
    steps = ["we walked a mile", "we ran", "we walked not a mile"]
    assessment = assess("p", steps, [checker])
    assert assessment.first_invalid == 2
    (finding,) = assessment.steps[2].findings
    assert finding.against == 0
    assert finding.reason == "word overlap says it contradicts step 1 (score 0.95)"


def test_a_model_less_sure_than_the_threshold_is_not_believed(install) -> None:
    install("words", WORDS)
    checker = ConsistencyChecker(make_entailment("words"), threshold=0.99)
    assert list(checker.check("", ["we ran", "we not ran"])) == []


def test_broken_models_are_named_with_the_reason(install) -> None:
    install("absent", "import no_such_library\n")
    install("older", WORDS.replace("protocol = 1", "protocol = 0"), version="0.3")
    assert installed().found == {}
    broken = dict(installed().broken)
    assert broken["absent"].startswith("nli_of_absent 1.0: ModuleNotFoundError: No module named 'no_such_library'")
    assert broken["older"] == "nli_of_older 0.3: written for protocol 0, this moe-bench has 1"
    with pytest.raises(BenchError, match="NLI model absent: cannot be loaded"):
        make_entailment("absent")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("[]", "0 replies with scores to 1 pairs"),
        ('[("perhaps", 0.5)] * len(pairs)', "'perhaps' is not a valid Label"),
        ('[("neutral", 7.0)] * len(pairs)', "one each from 0 to 1"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_model_that_answers_amiss_stops_with_its_name(install, reply: str, reason: str) -> None:
    install(
        "odd",
        f"class Model:\n    protocol = 1\n    name = 'odd'\n    def relate(self, pairs):\n        return {reply}\n",
    )
    checker = ConsistencyChecker(make_entailment("odd"))
    with pytest.raises(BenchError, match=f"NLI model odd: .*{reason}"):
        list(checker.check("", ["one", "two"]))


def test_a_model_that_cannot_be_made_stops_with_its_name(install) -> None:
    install("heavy", "class Model:\n    protocol = 1\n    def __init__(self):\n        raise OSError('no weights')\n")
    with pytest.raises(BenchError, match="NLI model heavy: cannot be made \\(OSError: no weights\\)"):
        make_entailment("heavy")


def test_pairs_are_the_problem_and_every_earlier_step_with_each_step() -> None:
    class Recorder:
        protocol = 1
        name = "recorder"
        pairs: Sequence[tuple[str, str]] = ()

        def relate(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, float]]:
            self.pairs = list(pairs)
            return [("entail", 1.0)] * len(pairs)

    model = Recorder()
    assert list(ConsistencyChecker(model).check("p", ["a", "b"])) == []
    assert model.pairs == [("p", "a"), ("p", "b"), ("a", "b")]
