"""A line of the self-test's table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: what was measured on which data, what it must reach, and what others have published."""

    checker: str
    """What was tested: "answers", "arithmetic", "logic", "consistency", "all checkers", ..."""
    data: str
    """On which data, and which part or class of it."""
    metric: str
    """What the value is: "agreement", "accuracy", "F1", "false alarms", ..."""
    value: float
    """A share from 0 to 1, unless the metric says otherwise."""
    n: int
    """How many cases it is of."""
    ci: tuple[float, float] | None = None
    """95 % interval of the value: Wilson's, where it is a proportion (see `Row.share`)."""
    bar: float | None = None
    """What it must reach; None where it is only reported."""
    at_most: bool = False
    """Whether the bar is an upper one."""
    published: float | None = None
    """The same figure as others have published it."""
    source: str = ""
    """Where it was published."""
    note: str = ""
    """What a reader must know of the figure."""
    disagreements: tuple[str, ...] = ()
    """Each case that differs from its label: which, what was found, what the label says, and why."""

    @classmethod
    def share(cls, *, hits: int, n: int, **others: Any) -> Self:
        """The row of a proportion, with Wilson's 95 % interval.

        Raises:
            BenchError: `n` is 0, or there are more hits than cases.
        """
        from moe_bench.stats import wilson_interval  # numpy is imported only when there is something to compute

        interval = wilson_interval(hits, n)
        return cls(value=hits / n, n=n, ci=(interval.low, interval.high), **others)

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "disagreements": list(self.disagreements), "met": self.met}
