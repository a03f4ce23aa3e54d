"""Intervals for what is not a mean, from sums kept apart in folds of whole sequences.

Leaving one fold out at a time shows how far sequences move a statistic and how much of it is there because samples are finite
(delete-one jackknife; Quenouille 1956, Tukey 1958). Tokens never stand alone here: a fold holds whole sequences.

Shapes: F folds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
MIN_FOLDS = 6
"""With fewer folds the spread among them says too little."""


class Jackknife(NamedTuple):
    """A statistic of sums over folds, each field of the statistic's own shape."""

    value: Floats
    """Of all folds together."""
    corrected: Floats
    """Without the first-order bias of a finite sample: F · value − (F − 1) · mean of the values with one fold left out."""
    error: Floats
    """Standard error; NaN with fewer than six folds."""
    folds: int

    def interval(self, *, level: float = 0.95) -> tuple[Floats, Floats]:
        """Student's t with F − 1 degrees of freedom around the corrected value; NaN as the error is."""
        from scipy.stats import t

        reach = t.ppf((1 + level) / 2, max(1, self.folds - 1)) * self.error
        return self.corrected - reach, self.corrected + reach

    def p_value(self, *, null: float = 0.0) -> Floats:
        """Two-sided, of the statistic being `null`; NaN as the error is."""
        from scipy.stats import t

        with np.errstate(divide="ignore", invalid="ignore"):
            p: Floats = 2 * t.sf(np.abs(self.corrected - null) / self.error, max(1, self.folds - 1))
        return p


def jackknife(sums_F: ArrayLike, statistic: Callable[[Floats], Any]) -> Jackknife:
    """A statistic with its error over folds of sequences.

    Args:
        sums_F: sums of every fold along the first axis; folds without anything are left out.
        statistic: of the sums over folds, any shape.
    """
    sums = np.asarray(sums_F, dtype=np.float64)
    sums = sums[sums.reshape(len(sums), -1).any(1)]
    total, folds = sums.sum(0), len(sums)
    value = np.asarray(statistic(total), dtype=np.float64)
    if folds < MIN_FOLDS:
        return Jackknife(value, value, np.full_like(value, np.nan), folds)
    without = np.array([statistic(total - fold) for fold in sums], dtype=np.float64)
    mean = without.mean(0)
    error = np.sqrt((folds - 1) / folds * np.square(without - mean).sum(0))
    return Jackknife(value, folds * value - (folds - 1) * mean, error, folds)
