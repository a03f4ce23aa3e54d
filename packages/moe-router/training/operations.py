"""Train the shipped classifier of reasoning operations, and score it: python packages/moe-router/training/operations.py

With MOE_TEST_DATA set to the folder of real data, the hand-labelled real steps are learned from too (that is how the shipped weights
were made); without it the project's own examples alone. Writes `operations.npz` into the package and `operations.json` beside this file.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
from real_steps import real_steps

from moe_router.operations import classifier as shipped_place
from moe_router.operations.classifier import OperationClassifier
from moe_router.operations.generate import Example, examples
from moe_router.operations.training import calibration_error, macro_f1, read_labels, train
from moe_router.operations.vocabulary import OPERATIONS

PER_OPERATION = 400
LEARNED = (1, 2, 3)
TESTS = {"random": (4,), "rare": (5,), "both": (4, 5)}
"""Rounds of labelling that are scored before anything is learned from them."""
LOGIC = ("bbh", "big_bench_mistake", "logic_llm")
HERE = Path(__file__).parent
WRITTEN = HERE.parent / "tests" / "data" / "operation_steps.jsonl"


def score(classifier: OperationClassifier, labelled: list[Example]) -> dict[str, object]:
    """How well the classifier does on labelled steps."""
    probabilities_NO = classifier.probabilities([e.text for e in labelled])
    labels_N = np.array([OPERATIONS.index(e.operation) for e in labelled])
    guesses_N, sure_N = probabilities_NO.argmax(1), probabilities_NO.max(1) >= classifier.threshold
    per_operation = {
        name: {
            "steps": int((labels_N == i).sum()),
            "f1": round(
                2
                * float(((labels_N == i) & (guesses_N == i)).sum())
                / max(1, int((labels_N == i).sum() + (guesses_N == i).sum())),
                3,
            ),
        }
        for i, name in enumerate(OPERATIONS)
    }
    return {
        "steps": len(labelled),
        "macro_f1": round(macro_f1(labels_N, guesses_N), 3),
        "accuracy": round(float((guesses_N == labels_N).mean()), 3),
        "calibration_error": round(calibration_error(probabilities_NO, labels_N), 3),
        "sure": round(float(sure_N.mean()), 3),
        "accuracy_where_sure": round(float((guesses_N == labels_N)[sure_N].mean()), 3),
        "per_operation": per_operation,
    }


def speed(classifier: OperationClassifier, steps: list[str]) -> dict[str, float]:
    """Steps classified in a second, over repeated runs."""
    many = (steps * (20_000 // len(steps) + 1))[:20_000]
    classifier.probabilities(many)
    rates = []
    for _ in range(7):
        begun = time.perf_counter()
        classifier.probabilities(many)
        rates.append(len(many) / (time.perf_counter() - begun))
    return {"median": round(statistics.median(rates)), "lowest": round(min(rates)), "highest": round(max(rates))}


def main() -> None:
    """Train, score, save."""
    made = list(examples(PER_OPERATION))
    written = read_labels(WRITTEN)
    report: dict[str, object] = {"examples": len(made), "patterns": len({e.pattern for e in made})}
    own = train(made)
    report["own examples alone"] = {
        "unseen patterns, macro F1": round(own.macro_f1, 3),
        "written": score(own.classifier, written),
    }
    final = own
    if "MOE_TEST_DATA" in os.environ:
        data = Path(os.environ["MOE_TEST_DATA"])
        learned = real_steps(data, labelling=LEARNED)
        tests = {name: real_steps(data, labelling=rounds) for name, rounds in TESTS.items()}
        tests["logic, both"] = [e for e in tests["both"] if e.pattern.startswith(LOGIC)]
        report["own examples alone"] |= {name: score(own.classifier, steps) for name, steps in tests.items()}  # type: ignore[operator]
        taught = train(made, own=learned)
        report["with rounds 1 to 3"] = {
            "steps": len(learned),
            "unseen patterns and items, macro F1": round(taught.macro_f1, 3),
            "written": score(taught.classifier, written),
        } | {name: score(taught.classifier, steps) for name, steps in tests.items()}
        final = train(made, own=[*learned, *tests["both"]])
        report["shipped: with all rounds"] = {
            "steps": len(learned) + len(tests["both"]),
            "written": score(final.classifier, written),
            "steps a second": speed(final.classifier, [e.text for e in learned]),
        }
    target = Path(shipped_place.__file__).with_name("operations.npz")
    final.classifier.save(target)
    report["bytes"] = target.stat().st_size
    (HERE / "operations.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
