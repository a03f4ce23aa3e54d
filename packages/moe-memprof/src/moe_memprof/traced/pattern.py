"""Which few layers stand for all: the prefix and the period of a model's layers, and a step put together from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from moe_memprof.errors import MemprofError
from moe_memprof.replay.step import Moment, Stretch


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


def compose(done: Mapping[str, Stretch], order: Sequence[int]) -> list[Moment]:
    """The high points of a step whose layers do what the given ones of the trace did."""
    state: Counter[str] = Counter()
    moments: list[Moment] = []

    def go(name: str, key: str) -> None:
        stretch = done[key]
        at_peak = Counter(state)
        at_peak.update(stretch.rise)
        rise, change = sum(stretch.rise.values()), sum(stretch.change.values())
        moments.append(Moment(name=name, parts=at_peak, rise=rise, change=change))
        state.update(stretch.change)

    go("the embedding", "forward embedding")
    for i, kind in enumerate(order):
        go(f"the forward pass of layer {i}", f"forward {kind}")
    go("the forward pass of head and loss", "forward head")
    go("the backward pass of head and loss", "backward head")
    for i, kind in reversed(list(enumerate(order))):
        go(f"the backward pass of layer {i}", f"backward {kind}")
    go("the backward pass of the embedding", "backward embedding")
    return moments


def held(done: Mapping[str, Stretch], order: Sequence[int]) -> int:
    """Bytes between the forward and the backward pass."""
    names = ["forward embedding", *(f"forward {kind}" for kind in order), "forward head"]
    return sum(sum(done[name].change.values()) for name in names)
