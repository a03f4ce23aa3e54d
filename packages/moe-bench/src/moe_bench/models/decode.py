"""Generating with a transformers model, token by token, in a batch whose rows come and go.

`generate` keeps a batch together until its longest answer ends. Here a row that is finished leaves, and the next prompts take
the free places; what all prompts begin with (worked examples) goes through the model once; equal prompts are read once.

Shapes: B rows of the batch, S positions in the cache, P positions of the shared beginning, N new rows, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError
from moe_bench.models.sampling import Draws, choose
from moe_bench.observers import NOBODY, Watch

if TYPE_CHECKING:
    import torch

_REFILL = 4
"""New prompts are read when a quarter of the places is free: reading one at a time would cost a pass each."""


@dataclass(eq=False, kw_only=True)
class Row:
    """One answer in the making."""

    position: int
    """Where its request stands in the list that was given."""
    ids: list[int]
    """The prompt's tokens."""
    series: int = 0
    """Rows of one series have the same worked examples before them."""
    draws: Draws | None = None
    """Its own random numbers; None for a greedy answer."""
    new: list[int] = field(default_factory=list)
    """Tokens generated so far, an end token included."""
    finish: str = ""
    """Why it ended; empty as long as it has not."""


class Decoder:
    """A model with what is needed to go on from one token to the next."""

    def __init__(
        self, model: Any, *, pad: int, batch_size: int, finished: Callable[[Row], str], top_p: float, temperature: float
    ) -> None:
        """Look at what the model can do.

        Args:
            model: a causal language model, PEFT-wrapped or not, in evaluation mode.
            pad: the token that fills rows up; it is masked.
            batch_size: rows at most.
            finished: given a row with a new token, why it is finished, or an empty text.
            top_p: see `Sampling`.
            temperature: see `Sampling`.
        """
        self.model, self.pad, self.batch_size = model, pad, batch_size
        self.finished, self.top_p, self.temperature = finished, top_p, temperature
        self.device = next(model.parameters()).device
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._accepted = set(inspect.signature(base.forward).parameters)
        self.config = base.config

    @property
    def supported(self) -> bool:
        """Whether the model is called in the usual way: a key-value cache, a mask and position numbers."""
        return {"past_key_values", "attention_mask", "position_ids"} <= self._accepted

    @property
    def flexible(self) -> bool:
        """Whether rows may come and go: every layer keeps all keys and values, with no window or running state."""
        from transformers.cache_utils import DynamicLayer

        return all(type(layer) is DynamicLayer for layer in self._new_cache().layers)

    def run(self, rows: Sequence[Row], *, together: bool, watch: Watch = NOBODY) -> Iterator[list[Row]]:
        """Generate until every row is finished; finished rows, some at a time.

        Args:
            rows: in the order in which they are to enter the batch, series by series.
            together: keep a batch together until its last row is finished (as observers need it, and models with windows); the
                mask of finished rows is 0, so that nothing counts them.
            watch: told the phases.
        """
        if together:
            for begin in range(0, len(rows), self.batch_size):
                yield self._batch(rows[begin : begin + self.batch_size], watch)
        else:
            yield from self._stream(rows)

    def _batch(self, rows: Sequence[Row], watch: Watch) -> list[Row]:
        import torch

        with watch.phase("prompt"):
            state = self._read(rows, None, apart=True)  # what is counted is counted for every answer
            alive = self._take(state, state.rows)
        with watch.phase("answer"):
            while any(alive):
                mask_B1 = torch.tensor([[int(a)] for a in alive], device=self.device)
                self._step(state, mask_B1)
                taken = self._take(state, [row for row, a in zip(state.rows, alive, strict=True) if a], alive)
                fresh = iter(taken)
                alive = [a and next(fresh) for a in alive]
        return list(rows)

    def _stream(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        waiting = deque(list(members) for _, members in groupby(rows, key=lambda row: row.series))
        shared: _Shared | None = None
        begun = False
        state: _State | None = None
        done: list[Row] = []
        while waiting or state is not None:
            free = self.batch_size - (0 if state is None else len(state.rows))
            if len(done) * _REFILL >= self.batch_size:
                yield done
                done = []
            if waiting and (state is None or free * _REFILL >= self.batch_size):
                series = waiting[0]
                if not begun:
                    shared, begun = self._shared(series), True
                new = self._read(series[:free], shared)
                del series[:free]
                if not series:
                    waiting.popleft()
                    begun = False
                done += self._leave(new, self._take(new, new.rows))
                if new.rows:
                    state = new if state is None else _joined(state, new)
                continue
            assert state is not None
            self._step(state, None)
            done += self._leave(state, self._take(state, state.rows))
            if not state.rows:
                state = None
        if done:
            yield done

    def _take(self, state: _State, rows: Sequence[Row], alive: Sequence[bool] | None = None) -> list[bool]:
        """Choose every row's next token; whether each goes on."""
        logits_BV = state.logits_BV
        if alive is not None:
            logits_BV = logits_BV[[i for i, a in enumerate(alive) if a]]
        chosen = choose(logits_BV, [row.draws for row in rows], temperature=self.temperature, top_p=self.top_p)
        goes_on = []
        for row, token in zip(rows, chosen, strict=True):
            row.new.append(token)
            row.finish = self.finished(row)
            goes_on.append(not row.finish)
        return goes_on

    def _leave(self, state: _State, goes_on: Sequence[bool]) -> list[Row]:
        """Take finished rows out of the batch."""
        if all(goes_on):
            return []
        left = [row for row, on in zip(state.rows, goes_on, strict=True) if not on]
        state.keep([i for i, on in enumerate(goes_on) if on])
        return left

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.config)

    def _shared(self, rows: Sequence[Row]) -> _Shared | None:
        """What all these prompts begin with, gone through the model once; at least one token of each is left to be read."""
        import torch

        if len(rows) < 2:
            return None
        first, last = min(row.ids for row in rows), max(row.ids for row in rows)  # all others lie between
        shortest = min(len(row.ids) for row in rows)
        length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), shortest)
        length = min(length, shortest - 1)
        if length < 1:
            return None
        cache = self._new_cache()
        ids_1P = torch.tensor([first[:length]], device=self.device)
        self._forward(ids_1P, torch.ones_like(ids_1P), torch.arange(length, device=self.device)[None], cache)
        return _Shared(length, cache)

    def _read(self, rows: Sequence[Row], shared: _Shared | None, *, apart: bool = False) -> _State:
        """Put new prompts through the model, each different one once, or each `apart`."""
        import torch

        begin = 0 if shared is None else shared.length
        number: dict[tuple[int, ...], int] = {}
        which_N = [number.setdefault(tuple(row.ids[begin:]), len(number)) for row in rows]
        place = [tuple(row.ids[begin:]) for row in rows] if apart else list(number)
        width = max(map(len, place))
        # Padding goes on the left, where generation does not continue from.
        ids_BS = torch.tensor([[self.pad] * (width - len(p)) + list(p) for p in place], device=self.device)
        mask_BS = torch.tensor([[1] * begin + [0] * (width - len(p)) + [1] * len(p) for p in place], device=self.device)
        positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)[:, begin:]
        cache = self._new_cache() if shared is None else shared.repeated(len(place))
        logits_BV = self._forward(ids_BS, mask_BS, positions_BS, cache)
        state = _State(list(rows), cache, mask_BS, mask_BS.sum(-1), logits_BV)
        if len(place) < len(rows):
            state.select(which_N)
        return state

    def _step(self, state: _State, mask_B1: torch.Tensor | None) -> None:
        """One more token through the model for every row."""
        import torch

        ids_B1 = torch.tensor([[row.new[-1]] for row in state.rows], device=self.device)
        ones_B1 = torch.ones_like(ids_B1) if mask_B1 is None else mask_B1
        state.mask_BS = torch.cat([state.mask_BS, ones_B1], dim=1)
        state.logits_BV = self._forward(ids_B1, state.mask_BS, state.length_B[:, None], state.cache)
        state.length_B = state.length_B + 1

    def _forward(self, ids_BS: Any, mask_BS: Any, positions_BS: Any, cache: Any) -> torch.Tensor:
        inputs = {
            "input_ids": ids_BS,
            "attention_mask": mask_BS,
            "position_ids": positions_BS,
            "past_key_values": cache,
            "use_cache": True,
        }
        if "logits_to_keep" in self._accepted:
            inputs["logits_to_keep"] = 1
        logits: torch.Tensor = self.model(**inputs).logits[:, -1]
        return logits


class _Shared:
    """The keys and values of what all prompts begin with."""

    def __init__(self, length: int, cache: Any) -> None:
        self.length, self._cache = length, cache

    def repeated(self, rows: int) -> Any:
        """A cache of its own for so many rows."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in cache.layers:  # views: the next update copies them anyway
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache


@dataclass(eq=False)
class _State:
    """A batch in the middle of its answers."""

    rows: list[Row]
    cache: Any
    mask_BS: torch.Tensor
    length_B: torch.Tensor
    """Tokens of every row that went through the model: the position of the next."""
    logits_BV: torch.Tensor

    def keep(self, indices: list[int]) -> None:
        """Only these rows go on; columns that are padding for all of them are dropped."""
        self.rows = [self.rows[i] for i in indices]
        if indices:
            self._index(indices)
            self._trim()

    def select(self, indices: list[int]) -> None:
        """As many rows as there are `rows`, each with what stands at its index."""
        self._index(indices)

    def _index(self, indices: list[int]) -> None:
        import torch

        index_B = torch.tensor(indices, device=self.mask_BS.device)
        self.cache.batch_select_indices(index_B)
        self.mask_BS, self.length_B, self.logits_BV = (
            self.mask_BS[index_B],
            self.length_B[index_B],
            self.logits_BV[index_B],
        )

    def _trim(self) -> None:
        lead = int(self.mask_BS.any(0).int().argmax())
        if lead:
            self.mask_BS = self.mask_BS[:, lead:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, lead:], layer.values[:, :, lead:]


def _joined(a: _State, b: _State) -> _State:
    """Two batches as one, the shorter padded on the left."""
    import torch

    width = max(a.mask_BS.shape[1], b.mask_BS.shape[1])

    def padded(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        missing = width - tensor.shape[dim]
        if not missing:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = missing
        return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)

    for layer, other in zip(a.cache.layers, b.cache.layers, strict=True):
        layer.keys = torch.cat([padded(layer.keys, 2), padded(other.keys, 2)])
        layer.values = torch.cat([padded(layer.values, 2), padded(other.values, 2)])
    return _State(
        a.rows + b.rows,
        a.cache,
        torch.cat([padded(a.mask_BS, 1), padded(b.mask_BS, 1)]),
        torch.cat([a.length_B, b.length_B]),
        torch.cat([a.logits_BV, b.logits_BV]),
    )


def refuse_unsupported(model: Any, sampled: bool) -> None:
    """Say that a model which is decoded by transformers' own `generate` is decoded greedily only.

    Raises:
        BenchError: where draws are asked for.
    """
    if sampled:
        raise BenchError(
            f"temperature: {type(model).__name__} is decoded by transformers' generate, where draws would depend on the batch; "
            "use temperature 0"
        )
