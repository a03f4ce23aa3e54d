"""Train the classifier: on the project's own examples, and on one's own labels.

Needs scikit-learn (`pip install 'moe-router[operations]'`). Shapes: N steps, O operations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_router.errors import RouterError
from moe_router.operations.classifier import OperationClassifier
from moe_router.operations.features import SIZE, features
from moe_router.operations.generate import Example
from moe_router.operations.vocabulary import OPERATIONS

FOLDS = 5
STRENGTH = 8.0
"""The inverse of the ridge penalty."""


class Trained(NamedTuple):
    """A classifier, and what it scores on patterns it was not trained on."""

    classifier: OperationClassifier
    macro_f1: float
    calibration_error: float


def train(
    examples: Sequence[Example], *, own: Sequence[Example] = (), own_weight: float = 3.0, seed: int = 0
) -> Trained:
    """Fit weights and temperature.

    Args:
        examples: labelled steps; those of one pattern stay together in the cross-validation.
        own: labelled steps that count for more, as they come from the text at hand.
        own_weight: how much more.
        seed: of the folds.

    Raises:
        RouterError: without scikit-learn, or when an operation has no example.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise RouterError("training needs scikit-learn: pip install 'moe-router[operations]'") from None
    every = [*examples, *own]
    labels_N = np.array([OPERATIONS.index(e.operation) for e in every])
    if missing := [o for i, o in enumerate(OPERATIONS) if not (labels_N == i).any()]:
        raise RouterError(f"labels: no example of {', '.join(missing)}; every operation needs some")
    matrix = _matrix([e.text for e in every])
    weight_N = np.concatenate([np.ones(len(examples)), np.full(len(own), own_weight)])

    def fit(rows: NDArray[np.int64]) -> Any:
        model = LogisticRegression(C=STRENGTH, max_iter=400, class_weight="balanced")
        return model.fit(matrix[rows], labels_N[rows], sample_weight=weight_N[rows])

    logits_NO = np.zeros((len(every), len(OPERATIONS)))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for kept, left_out in folds.split(matrix, labels_N, [e.pattern for e in every]):
        logits_NO[left_out] = fit(kept).decision_function(matrix[left_out])
    temperature = _temperature(logits_NO, labels_N)
    model = fit(np.arange(len(every)))
    classifier = OperationClassifier(model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32), temperature)
    probabilities_NO = _softmax(logits_NO / temperature)
    return Trained(
        classifier, macro_f1(labels_N, probabilities_NO.argmax(1)), calibration_error(probabilities_NO, labels_N)
    )


def macro_f1(labels_N: NDArray[Any], guesses_N: NDArray[Any]) -> float:
    """The mean over the labels that occur of the harmonic mean of precision and recall."""
    scores = []
    for label in np.unique(labels_N):
        hit = float(((labels_N == label) & (guesses_N == label)).sum())
        scores.append(2 * hit / float((labels_N == label).sum() + (guesses_N == label).sum()))
    return float(np.mean(scores))


def calibration_error(probabilities_NO: NDArray[np.float64], labels_N: NDArray[Any], bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): how far confidence lies from accuracy, over equal bins of confidence."""
    confidence_N, right_N = probabilities_NO.max(1), probabilities_NO.argmax(1) == labels_N
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    gaps = [abs(confidence_N[bin_N == b].sum() - right_N[bin_N == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(labels_N))


def read_labels(path: Path) -> list[Example]:
    """Labelled steps, a JSON object to a line with `text` and `operation`.

    Raises:
        RouterError: naming file and line.
    """
    if not path.is_file():
        raise RouterError(f"labels {path}: no such file")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text, operation = record["text"], record["operation"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise RouterError(f"labels {path}:{number}: needs an object with text and operation") from None
        if operation not in OPERATIONS:
            raise RouterError(f"labels {path}:{number}: operation {operation!r}; one of {', '.join(OPERATIONS)}")
        found.append(Example(str(text), operation, f"{path.name}/{number}"))
    if not found:
        raise RouterError(f"labels {path}: holds none")
    return found


def _matrix(steps: Sequence[str]) -> Any:
    from scipy.sparse import csr_matrix

    found = features(steps)
    ends_N = np.append(found.starts_N, len(found.ids_F))
    values_F = np.repeat(1 / np.sqrt(np.diff(ends_N)), np.diff(ends_N))
    return csr_matrix((values_F, found.ids_F, ends_N), shape=(len(steps), SIZE))


def _softmax(logits_NO: NDArray[np.float64]) -> NDArray[np.float64]:
    raised_NO = np.exp(logits_NO - logits_NO.max(1, keepdims=True))
    return np.asarray(raised_NO / raised_NO.sum(1, keepdims=True))


def _temperature(logits_NO: NDArray[np.float64], labels_N: NDArray[Any]) -> float:
    """The temperature with the least negative log-likelihood."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        p_NO = _softmax(logits_NO / np.exp(log_temperature))
        return float(-np.log(p_NO[np.arange(len(labels_N)), labels_N] + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
