"""The classifier of reasoning operations: on separately written steps, on real ones, in a trace, at the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moe_router.cli import main
from moe_router.errors import RouterError
from moe_router.operations.classifier import OperationClassifier, classify, shipped
from moe_router.operations.features import features
from moe_router.operations.generate import examples
from moe_router.operations.steps import TOKEN_OPERATIONS, operation_types, steps_of
from moe_router.operations.training import calibration_error, macro_f1, read_labels, train
from moe_router.operations.vocabulary import OPERATIONS, UNCERTAIN

WRITTEN = Path(__file__).parent / "data" / "operation_steps.jsonl"


def test_separately_written_steps_are_told_apart() -> None:
    written = read_labels(WRITTEN)
    labels = np.array([OPERATIONS.index(e.operation) for e in written])
    probabilities = shipped().probabilities([e.text for e in written])
    assert macro_f1(labels, probabilities.argmax(1)) >= 0.85
    assert calibration_error(probabilities, labels) < 0.12
    # Where it says it is sure it is right more often.
    sure = probabilities.max(1) >= shipped().threshold
    right = probabilities.argmax(1) == labels
    assert right[sure].mean() > right.mean()
    assert 0.75 < sure.mean() < 1


def test_what_is_no_step_of_reasoning_is_uncertain() -> None:
    assert classify(["Zzz qqq", "Lorem ipsum dolor sit amet consectetur"]) == [UNCERTAIN, UNCERTAIN]
    assert classify([]) == []


def test_a_batch_gives_what_single_steps_give() -> None:
    steps = [e.text for e in read_labels(WRITTEN)] + ["", "x", "\\[ x = 2 \\]" * 400]
    together = shipped().probabilities(steps)
    np.testing.assert_allclose(together.sum(1), 1)
    for step, row in zip(steps, together, strict=True):
        np.testing.assert_allclose(shipped().probabilities([step])[0], row, rtol=1e-9)


def test_number_and_lead_of_a_step_do_not_matter() -> None:
    plain = features(["we add 17 and 25 to get 42."]).ids_F
    for other in (
        "Step 3: we add 17 and 25 to get 42.",
        "(2) We add 91 and 34 to get 125.",
        "**Step 4:** we add 11 and 12 to get 23.",
    ):
        np.testing.assert_array_equal(features([other]).ids_F, plain)


def test_examples_are_many_varied_and_the_same_every_time() -> None:
    made = list(examples(400))
    assert made == list(examples(400))
    for operation in OPERATIONS:
        own = [e for e in made if e.operation == operation]
        assert len({e.text for e in own}) == 400
        assert len({e.pattern for e in own}) >= 40
        assert not [e.text for e in own if "{name}" in e.text or "[|" in e.text]


def test_retraining_on_own_labels_learns_them(tmp_path: Path) -> None:
    labels = tmp_path / "mine.jsonl"
    lines = [
        {"text": f"Zorp the {n} blick.", "operation": "check"} for n in ("red", "tall", "old", "wet", "new", "big")
    ]
    labels.write_text("\n".join(map(json.dumps, lines)))
    result = CliRunner().invoke(
        main, ["operations", "train", str(labels), "-o", str(tmp_path / "mine.npz"), "--per-operation", "60"]
    )
    assert result.exit_code == 0, result.output
    assert "6 labels of your own" in result.output
    mine = OperationClassifier.load(tmp_path / "mine.npz")
    assert mine.probabilities(["Zorp the blue blick."])[0].argmax() == OPERATIONS.index("check")
    assert shipped().classify(["Zorp the blue blick."]) != ["check"]


def test_labels_and_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a", "operation": "guess"}')
    with pytest.raises(RouterError, match=r"bad\.jsonl:1: operation 'guess'; one of setup"):
        read_labels(bad)
    bad.write_text('{"text": "a"}')
    with pytest.raises(RouterError, match=r"bad\.jsonl:1: needs an object with text and operation"):
        read_labels(bad)
    with pytest.raises(RouterError, match=r"no such file"):
        read_labels(tmp_path / "none.jsonl")
    with pytest.raises(RouterError, match="cannot be read"):
        OperationClassifier.load(bad)
    np.savez(tmp_path / "other.npz", schema=np.array("other"))
    with pytest.raises(RouterError, match="operations train"):
        OperationClassifier.load(tmp_path / "other.npz")


def test_steps_are_lines_or_the_sentences_of_one_line() -> None:
    text = "Let x be 3.\n\nThen 2x = 6.  \n"
    assert [text[a:b].strip() for a, b in steps_of(text)] == ["Let x be 3.", "Then 2x = 6."]
    text = "She has 3.5 apples. Then 3 + 4 = 7. So the answer is 7."
    assert [text[a:b] for a, b in steps_of(text)] == ["She has 3.5 apples.", "Then 3 + 4 = 7.", "So the answer is 7."]


def test_every_token_of_a_step_has_its_operation_and_the_prompt_none() -> None:
    text = "How many?\n3 * 4 = 12 apples.\nSo the answer is 12."
    offsets = [(0, 0), (0, 3), (4, 9), (10, 11), (12, 13), (14, 28), (29, 31), (32, 49), (0, 0)]
    names = [TOKEN_OPERATIONS[i] for i in operation_types(text, offsets, prompt_tokens=3)]
    assert names == ["outside"] * 3 + ["calculate"] * 3 + ["conclude"] * 2 + ["outside"]


def test_the_command_classifies_a_file(tmp_path: Path) -> None:
    (tmp_path / "steps.txt").write_text("Let x be the number of apples.\nSo the answer is 12.\n")
    run = CliRunner().invoke(main, ["operations", "classify", str(tmp_path / "steps.txt"), "--json"])
    rows = [json.loads(line) for line in run.output.splitlines()]
    assert [row["operation"] for row in rows] == ["setup", "conclude"]
    assert all(0.45 <= row["probability"] <= 1 for row in rows)
    (tmp_path / "s.jsonl").write_text('{"steps": ["So the answer is 12."]}\n{"completion": "3 + 4 = 7."}\n')
    assert "conclude" in CliRunner().invoke(main, ["operations", "classify", str(tmp_path / "s.jsonl")]).output
    (tmp_path / "s.jsonl").write_text("{}")
    run = CliRunner().invoke(main, ["operations", "classify", str(tmp_path / "s.jsonl")])
    assert run.exit_code == 2
    assert "s.jsonl:1: needs an object with step, steps" in run.output


def test_annotating_by_hand_saves_every_answer_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    steps, labels = tmp_path / "steps.txt", tmp_path / "labels.jsonl"
    steps.write_text("3 + 4 = 7\nWait, that is wrong.\nLet n be even.\nSo the answer is 7.\n")
    command = ["operations", "annotate", str(steps), "-o", str(labels)]
    first = CliRunner().invoke(main, command, input="\n?\nv\nq\n")
    assert first.exit_code == 0, first.output
    assert "2 labelled" in first.output
    CliRunner().invoke(main, command, input="-\nc\n")
    assert [(e.text, e.operation) for e in read_labels(labels)] == [
        ("3 + 4 = 7", "calculate"),
        ("Wait, that is wrong.", "check"),
        ("So the answer is 7.", "conclude"),
    ]


@pytest.mark.realdata
def test_real_steps_that_were_not_learned_from() -> None:
    """Learn from three rounds of labelled steps of mathematics and logic; score on two others, of items that are in none of the three."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from real_steps import real_steps

    data = Path(os.environ["MOE_TEST_DATA"])
    learned = real_steps(data, labelling=(1, 2, 3))
    assert len(learned) > 2500
    trained = train(list(examples(400)), own=learned).classifier
    for rounds, least_f1, least_right in (((4,), 0.75, 0.78), ((4, 5), 0.69, 0.72)):
        steps = real_steps(data, labelling=rounds)
        assert not {e.pattern for e in steps} & {e.pattern for e in learned}
        labels = np.array([OPERATIONS.index(e.operation) for e in steps])
        probabilities = trained.probabilities([e.text for e in steps])
        assert macro_f1(labels, probabilities.argmax(1)) >= least_f1
        assert (probabilities.argmax(1) == labels).mean() >= least_right
        assert calibration_error(probabilities, labels) < 0.1
