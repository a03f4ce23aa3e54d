"""Two runs' scores of the same items: single right and wrong answers, or shares of several, or items that go together.

Where an item is right or wrong, the pairs make a 2 × 2 table (`SinglePairs`). With several answers an item's score may be the share that
is right, and items that share something (a passage, a template) are no independent trials: then what may be exchanged is an
item, or a cluster of them, and not an answer (`GradedPairs`; Miller 2024, arXiv:2411.00640, sections 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moe_bench.draws import score_of
from moe_bench.errors import BenchError
from moe_bench.stats import (
    Discordance,
    Interval,
    discordance,
    equivalence_p_value,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_difference_interval,
)

Answers = Mapping[str, Sequence[Mapping[str, Any]]]
"""By item, its answers in one run: lines of samples.jsonl."""

_RESAMPLES = 9999
_BATCH = 1 << 22
"""Numbers held at a time while resampling."""
_SEED = 20241101


class Pairs(Protocol):
    """What a comparison needs of paired scores; B against A."""

    test: str
    """Name of the test that `p_value` is of."""

    @property
    def n(self) -> int:
        """Items."""
        ...

    @property
    def units(self) -> int:
        """Items, or clusters of them: what is independent."""
        ...

    @property
    def means(self) -> tuple[float, float]:
        """Mean scores of A and of B."""
        ...

    @property
    def ahead(self) -> tuple[int, int]:
        """Items on which A alone has the higher score, and B alone."""
        ...

    @property
    def p_value(self) -> float:
        """Two-sided, that there is no difference."""
        ...

    def interval(self, *, alpha: float) -> Interval:
        """Of mean B − mean A."""
        ...

    def equivalence(self, *, margin: float) -> float:
        """TOST p-value that the difference lies within ±margin."""
        ...

    def detectable(self, *, alpha: float) -> float | None:
        """The smallest difference that would have been found at 80 % power; None where none would."""
        ...


@dataclass(frozen=True)
class SinglePairs:
    """Every item right or wrong in both runs."""

    table: Discordance
    test = "exact McNemar"

    @property
    def n(self) -> int:
        """Items."""
        return self.table.n

    @property
    def units(self) -> int:
        """Items."""
        return self.n

    @property
    def means(self) -> tuple[float, float]:
        """Accuracies of A and of B."""
        return (self.table.both + self.table.only_a) / self.n, (self.table.both + self.table.only_b) / self.n

    @property
    def ahead(self) -> tuple[int, int]:
        """Items that A alone answered right, and B alone."""
        return self.table.only_a, self.table.only_b

    @property
    def p_value(self) -> float:
        """See `mcnemar_exact`."""
        return mcnemar_exact(self.table)

    def interval(self, *, alpha: float) -> Interval:
        """See `paired_difference_interval`."""
        return paired_difference_interval(self.table, alpha=alpha)

    def equivalence(self, *, margin: float) -> float:
        """See `equivalence_p_value`."""
        return equivalence_p_value(self.table, margin=margin)

    def detectable(self, *, alpha: float) -> float | None:
        """See `minimum_detectable_difference`."""
        share = sum(self.ahead) / self.n
        return minimum_detectable_difference(self.n, discordant=share, alpha=alpha) if share else None


@dataclass(frozen=True)
class GradedPairs:
    """Scores from 0 to 1 by item, and which items go together."""

    scores_a: NDArray[np.float64]
    scores_b: NDArray[np.float64]
    """[items]."""
    clusters: NDArray[np.intp]
    """[items], the number of each item's cluster, from 0."""
    test = "sign-flip permutation"

    @property
    def n(self) -> int:
        """Items."""
        return len(self.scores_a)

    @property
    def units(self) -> int:
        """Clusters."""
        return len(self._sums[0])

    @property
    def means(self) -> tuple[float, float]:
        """Mean scores over items."""
        return float(self.scores_a.mean()), float(self.scores_b.mean())

    @property
    def ahead(self) -> tuple[int, int]:
        """Items on which A alone has the higher score, and B alone."""
        return int((self.scores_a > self.scores_b).sum()), int((self.scores_b > self.scores_a).sum())

    @property
    def _sums(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of the differences and number of items of every cluster."""
        difference = self.scores_b - self.scores_a
        return np.bincount(self.clusters, difference).astype(np.float64), np.bincount(self.clusters).astype(np.float64)

    @property
    def p_value(self) -> float:
        """Sign-flip permutation test (Fisher 1935): without a difference, each cluster's could as well have the other sign.

        All flips where they are fewer than 10,000, else as many drawn ones, the observed one counted (Phipson and Smyth 2010).
        """
        from scipy.stats import permutation_test

        sums = self._sums[0][self._sums[0] != 0]  # the sign of nothing makes no difference
        if sums.size < 2:
            return 1.0
        found = permutation_test(
            (sums,), _mean, permutation_type="samples", n_resamples=_RESAMPLES, vectorized=True, batch=max(1, _BATCH // sums.size),
            rng=np.random.default_rng(_SEED),
        )  # fmt: skip
        return min(1.0, float(found.pvalue))

    def interval(self, *, alpha: float) -> Interval:
        """Bias-corrected and accelerated bootstrap over clusters (Efron 1987); the normal one where all clusters are the same."""
        from scipy.stats import bootstrap, norm

        sums, sizes = self._sums
        if len(sums) > 1 and np.ptp(sums / sizes) > 0:
            found = bootstrap(
                (sums, sizes), _ratio, paired=True, n_resamples=_RESAMPLES, vectorized=True, confidence_level=1 - alpha, method="BCa",
                batch=max(1, _BATCH // len(sums)), rng=np.random.default_rng(_SEED),
            ).confidence_interval  # fmt: skip
            if math.isfinite(found.low) and math.isfinite(found.high):
                return Interval(max(-1.0, float(found.low)), min(1.0, float(found.high)))
        half = float(norm.ppf(1 - alpha / 2)) * self._error
        middle = float(sums.sum() / sizes.sum())
        return Interval(max(-1.0, middle - half), min(1.0, middle + half))

    def equivalence(self, *, margin: float) -> float:
        """TOST: the larger of the two one-sided normal tests with the clustered error.

        At the margin, units of which few differ at all, and then wholly, vary by margin · (1 − margin); less is not believed.
        """
        from scipy.stats import norm

        sums, sizes = self._sums
        if len(sums) < 2:
            return 1.0
        difference = float(sums.sum() / sizes.sum())
        error = max(clustered_standard_error(sums, sizes), math.sqrt(margin * (1 - margin) / len(sums)))
        return float(max(norm.cdf((difference - margin) / error), norm.cdf((-difference - margin) / error)))

    def detectable(self, *, alpha: float) -> float | None:
        """The difference whose normal test at this error has 80 % power: (z_α + z_β) times the clustered error."""
        from scipy.stats import norm

        sums, sizes = self._sums
        if len(sums) < 2 or not np.ptp(sums / sizes):
            return None
        found = float(norm.ppf(1 - alpha / 2) + norm.ppf(0.8)) * clustered_standard_error(sums, sizes)
        return found if found <= 1 else None

    @property
    def _error(self) -> float:
        """The clustered error with half an item more on which only A, and half one on which only B is right (Agresti and Min 2005)."""
        sums, sizes = self._sums
        n = sizes.sum() + 2
        middle = sums.sum() / n
        spread = float(((sums - middle * sizes) ** 2).sum()) + 1 + 2 * middle**2
        return math.sqrt(spread) / float(n)


def clustered_standard_error(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Standard error of a mean over items that come in clusters: the root of m/(m − 1) Σ(s − x̄ n)² over N (m clusters, N items).

    With one item in every cluster it is the standard deviation over √N.

    Args:
        sums: [clusters], the sum of the items' values.
        sizes: [clusters], how many items there are.

    Raises:
        BenchError: fewer than two clusters.
    """
    if len(sums) < 2:
        raise BenchError("a standard error needs at least two items, or clusters of items")
    rest = sums - sums.sum() / sizes.sum() * sizes
    return math.sqrt(len(sums) / (len(sums) - 1) * float(rest @ rest)) / float(sizes.sum())


def pair(a: Answers, b: Answers, items: Sequence[str], *, score: str = "mean", cluster: str | None = None) -> Pairs:
    """The pairs of these items.

    Args:
        a: answers of run A.
        b: answers of run B to the same items.
        items: which items, in order.
        score: of several answers, of `moe_bench.draws.SCORES`.
        cluster: key of the items' metadata; items with one value there go together.

    Raises:
        BenchError: an item has no such metadata.
    """
    scores = [np.array([score_of(run[item], score) for item in items]) for run in (a, b)]
    if cluster is None and all(np.isin(of_run, (0, 1)).all() for of_run in scores):
        return SinglePairs(discordance(*scores))
    names = [item if cluster is None else _value(a[item][0], cluster) for item in items]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return GradedPairs(scores[0], scores[1], np.array([numbers[name] for name in names]))


def _value(answer: Mapping[str, Any], key: str) -> str:
    metadata = answer.get("metadata") or {}
    if key not in metadata:
        has = f"has {', '.join(sorted(metadata))}" if metadata else "has none"
        raise BenchError(f"item {answer['id']}: no metadata {key!r} to cluster by; it {has}")
    return str(metadata[key])


def _mean(x: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(x.mean(axis=axis))


def _ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis))
