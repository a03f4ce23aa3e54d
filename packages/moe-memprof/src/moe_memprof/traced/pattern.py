"""Which few layers stand for all: the prefix and the period of a model's layers, and a step put together from them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from moe_memprof.errors import MemprofError
from moe_memprof.replay.step import Stretch


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The first `prefix` layers are of their own kind; the others repeat every `period`."""

    prefix: int
    period: int
    layers: int

    @property
    def depths(self) -> tuple[int, ...]:
        """The two depths to trace: one period and two; all layers where that is no more."""
        shallow, deep = self.prefix + self.period, self.prefix + 2 * self.period
        return (shallow, deep) if deep < self.layers else (self.layers,)

    def order(self, layers: int) -> list[int]:
        """For each of `layers` layers, the one of the deeper trace that stands for it.

        The first period stands for itself alone: a first layer's input needs no gradient where the embedding is frozen.
        """
        known = self.prefix + self.period
        deep = self.depths[-1]
        return [
            i if i < min(known, deep) or deep == layers else known + (i - known) % self.period for i in range(layers)
        ]


def find_pattern(kinds: Sequence[Hashable]) -> Pattern:
    """The pattern whose second depth is smallest."""
    n = len(kinds)
    for deep in range(2, n + 1):
        for period in range(1, deep // 2 + 1):
            prefix = deep - 2 * period
            if all(kinds[i] == kinds[i - period] for i in range(prefix + period, n)):
                return Pattern(prefix=prefix, period=period, layers=n)
    return Pattern(prefix=0, period=n, layers=n)


def given_pattern(depths: tuple[int, int], layers: int) -> Pattern:
    """The pattern that two depths say: their difference is the period.

    Raises:
        MemprofError: when two depths cannot say one.
    """
    shallow, deep = depths
    period = deep - shallow
    if not 0 < period <= shallow or deep > layers:
        raise MemprofError(
            f"depths {shallow} and {deep}: the difference is the period of the layers, at least 1 and at most the first depth, and "
            f"the second at most the {layers} layers of the model"
        )
    return Pattern(prefix=shallow - period, period=period, layers=layers)


def held(done: Mapping[str, Stretch], order: Sequence[int]) -> int:
    """Bytes between the forward and the backward pass."""
    names = ["forward embedding", *(f"forward {kind}" for kind in order), "forward head"]
    return sum(sum(done[name].change.values()) for name in names)
