"""What would fit: the largest batch and sequence of each method, and the cheapest changes that make a run fit.

What a change costs is a model of the time of a step, not a measurement: the arithmetic of the passes (a forward pass is 2 operations per
active parameter and token, a backward pass 2 or 4 as weights are frozen or trained), and what must be moved besides.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any, get_args, get_type_hints

from moe_memprof.devices import Parallel
from moe_memprof.errors import MemprofError
from moe_memprof.estimate import estimate
from moe_memprof.plan import Estimate
from moe_memprof.replay.step import CHUNK
from moe_memprof.spec import RunSpec

LONGEST = 2**20
"""Tokens beyond which a search goes no further."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that makes a run smaller."""

    name: str
    set: str
    """As `whatif --set` takes it."""
    time: float
    """Of a step, over that of the run as given, by the model of the module's docstring."""
    why: str
    learns_the_same: bool = True
    """Whether what is learned stays the same."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """Changes taken together, and what they come to."""

    changes: tuple[Change, ...]
    peak: int

    @property
    def time(self) -> float:
        """Of a step, over that of the run as given."""
        product = 1.0
        for change in self.changes:
            product *= change.time
        return product


@dataclass(frozen=True, kw_only=True)
class MethodFit:
    """How much of one method fits."""

    name: str
    set: str
    peak: int
    """With one sequence of the length that was asked for."""
    sequences: int
    """Largest micro-batch of that length; 0 where not even one fits."""
    length: int
    """Longest single sequence; 0 where not even 16 tokens fit."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The result of `search`."""

    made: Estimate
    fits: bool
    methods: tuple[MethodFit, ...]
    cheapest: Option | None
    """The changes with the lowest estimated cost under which the run fits; None where none do, or none are needed."""
    others: tuple[Option, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-memprof/fit@1."""

        def option(found: Option) -> dict[str, Any]:
            return {"peak": found.peak, "time": found.time, "changes": [vars(c) for c in found.changes]}

        return {
            "schema": "moe-memprof/fit@1",
            "fits": self.fits,
            "peak": self.made.peak,
            "methods": [vars(m) for m in self.methods],
            "cheapest": None if self.cheapest is None else option(self.cheapest),
            "others": [option(o) for o in self.others],
        }


def changed(spec: RunSpec, change: str) -> RunSpec:
    """The run with `key=value[,key=value]` set.

    Raises:
        MemprofError: for a key that is none, with the nearest; or a value that it does not take.
    """
    own = {f.name for f in fields(RunSpec)} - {"config", "parallel", "overrides"}
    parallel = {f.name for f in fields(Parallel)}
    values: dict[str, Any] = {}
    for pair in change.split(","):
        key, _, text = (piece.strip() for piece in pair.partition("="))
        key = SHORT.get(key, key)
        if key not in own | parallel or not text:
            near = difflib.get_close_matches(key, sorted(own | parallel), n=1)
            hint = f"; did you mean {near[0]}?" if near and key not in own | parallel else ""
            raise MemprofError(f"--set {pair}: expected KEY=VALUE with a key of a run, such as length=1024{hint}")
        values[key] = _value(RunSpec if key in own else Parallel, key, text)
    spread = {key: values.pop(key) for key in list(values) if key in parallel}
    return replace(spec, **values, parallel=replace(spec.parallel, **spread))


SHORT = {"batch": "sequences", "seq": "length", "accum": "accumulation"}
"""The command line's names of keys."""


def _value(kind: type, key: str, text: str) -> Any:
    hint = get_type_hints(kind)[key]
    kinds = {type(v) for v in _flat(hint)} if get_args(hint) else {hint}
    if bool in kinds and text.lower() in {"true", "false", "yes", "no", "on", "off"}:
        return text.lower() in {"true", "yes", "on"}
    if kinds == {bool}:
        raise MemprofError(f"--set {key}={text}: expected true or false")
    for number in (int, float):
        if number in kinds or (number is float and hint is not str and str not in kinds):
            try:
                return number(text)
            except ValueError:
                if str not in kinds:
                    raise MemprofError(f"--set {key}={text}: expected a number") from None
    return text


def _flat(hint: Any) -> Iterator[Any]:
    for argument in get_args(hint):
        if get_args(argument):
            yield from _flat(argument)
        elif isinstance(argument, type):
            yield argument() if argument in (bool, int, float, str) else None
        else:
            yield argument


def candidates(spec: RunSpec) -> list[Change]:
    """Changes worth trying on this run, cheapest first."""
    backward = 2.0 if spec.method == "full" else 1.0
    passes = 1 + backward
    found: list[Change] = []

    def offer(condition: bool, name: str, set_: str, time: float, why: str, same: bool = True) -> None:
        if condition:
            found.append(Change(name=name, set=set_, time=time, why=why, learns_the_same=same))

    offer(
        spec.experts != "grouped_mm",
        "grouped expert kernels",
        "experts=grouped_mm",
        0.9,
        "one kernel instead of a loop",
    )
    offer(spec.attention == "eager", "fused attention", "attention=sdpa", 0.9, "the score matrix is never kept")
    offer(
        spec.loss not in {"chunked", "liger"},
        "a chunked loss",
        "loss=chunked",
        1.01,
        f"logits of {CHUNK} positions at a time",
    )
    offer(
        spec.method != "full" and spec.lora_experts and spec.expert_lora == "peft",
        "grouped expert LoRA", "expert_lora=grouped", 0.9, "PEFT builds W + ΔW of every expert, in every layer",
    )  # fmt: skip
    offer(
        spec.optimizer in {"adamw", "adamw_fused"}, "an 8-bit optimizer", "optimizer=adamw_8bit", 1.01,
        "two bytes of state a parameter instead of eight (four in 16 bits)",
    )  # fmt: skip
    for halved in _halvings(spec.sequences):
        factor = spec.sequences // halved
        offer(
            True, f"micro-batches of {halved}", f"sequences={halved},accumulation={spec.accumulation * factor}",
            1 + 0.02 * factor, "the same batch in more pieces: more, smaller kernels",
        )  # fmt: skip
    offer(
        spec.checkpointing == "none", "gradient checkpointing", "checkpointing=non-reentrant", (passes + 1) / passes,
        f"one more forward pass beside {passes:g} passes' work",
    )  # fmt: skip
    if spec.method == "lora":
        offer(
            True, "4-bit weights, experts too", "method=qlora,quantise_experts=true,expert_lora=grouped", 1.2,
            "weights are dequantised in each pass; needs a loader that quantises fused experts (moe-train)", False,
        )  # fmt: skip
    if spec.method == "qlora" and not spec.quantise_experts:
        offer(
            True, "4-bit experts", "quantise_experts=true,expert_lora=grouped", 1.1,
            "bitsandbytes leaves fused experts in 16 bits; needs a loader that quantises them (moe-train)", False,
        )  # fmt: skip
    if spec.method == "qlora" and not spec.double_quant and spec.bits == 4:
        offer(True, "double quantisation", "double_quant=true", 1.02, "scales in 8 bits", False)
    if spec.method == "full":
        offer(True, "LoRA on attention and experts", "method=lora,expert_lora=grouped,master_weights=false", 0.7,
              "the base is frozen", False)  # fmt: skip
    elif spec.lora_experts:
        offer(
            spec.lora_attention, "adapt attention alone", "lora_experts=false", 0.9, "experts stay as they are", False
        )
    for halved in _halvings(spec.length, least=512):
        offer(True, f"sequences of {halved}", f"length={halved}", 1.0, "longer samples are cut or left out", False)
    return sorted(found, key=lambda c: (not c.learns_the_same, c.time))


def _halvings(number: int, *, least: int = 1) -> Iterator[int]:
    while number % 2 == 0 and number // 2 >= least:
        number //= 2
        yield number


def search(spec: RunSpec, budget: int) -> Search:
    """Largest batch and sequence per method, and the cheapest changes under which the run fits.

    Raises:
        MemprofError: as `estimate` does.
    """
    made = estimate(spec)
    fits = made.peak <= budget
    options: list[Option] = []
    if not fits:
        options = list(_options(spec, budget))
    options.sort(key=lambda o: (not all(c.learns_the_same for c in o.changes), o.time, len(o.changes)))
    return Search(
        made=made,
        fits=fits,
        methods=tuple(_methods(spec, budget)),
        cheapest=options[0] if options else None,
        others=tuple(options[1:4]),
    )


def _options(spec: RunSpec, budget: int) -> Iterator[Option]:
    """Sets of up to four changes that fit and of which none can be left out."""
    offered = candidates(spec)
    enough: list[frozenset[str]] = []
    for size in range(1, 5):
        for together in combinations(offered, size):
            names = frozenset(c.name for c in together)
            if _clash(together) or any(smaller <= names for smaller in enough):
                continue
            try:
                peak = estimate(changed(spec, ",".join(c.set for c in together))).peak
            except MemprofError:
                continue
            if peak <= budget:
                enough.append(names)
                yield Option(changes=together, peak=peak)
        if enough and size >= 2:
            return


def _clash(together: tuple[Change, ...]) -> bool:
    """Whether two changes set the same key."""
    keys = [pair.partition("=")[0] for change in together for pair in change.set.split(",")]
    return len(keys) != len(set(keys))


METHODS = (
    ("full, bf16, 8-bit AdamW", "method=full,optimizer=adamw_8bit,checkpointing=non-reentrant"),
    ("LoRA through PEFT", "method=lora,expert_lora=peft,checkpointing=non-reentrant"),
    ("LoRA, grouped", "method=lora,expert_lora=grouped,checkpointing=non-reentrant"),
    ("LoRA on attention alone", "method=lora,lora_experts=false,checkpointing=non-reentrant"),
    ("QLoRA as bitsandbytes does it", "method=qlora,expert_lora=peft,checkpointing=non-reentrant"),
    (
        "QLoRA, 4-bit experts",
        "method=qlora,quantise_experts=true,double_quant=true,expert_lora=grouped,optimizer=adamw_8bit,checkpointing=non-reentrant",
    ),
)


def _methods(spec: RunSpec, budget: int) -> Iterator[MethodFit]:
    base = replace(spec, master_weights=False, sequences=1, accumulation=1, eval_sequences=1)
    for name, set_ in METHODS:
        one = changed(base, set_)
        yield MethodFit(
            name=name,
            set=set_,
            peak=estimate(one).peak,
            sequences=largest(lambda n, one=one: estimate(replace(one, sequences=n)).peak <= budget),  # type: ignore[misc]
            length=largest(lambda n, one=one: estimate(replace(one, length=16 * n)).peak <= budget) * 16,  # type: ignore[misc]
        )


def largest(fits: Callable[[int], bool], *, limit: int = LONGEST // 16) -> int:
    """The largest number up to `limit` that fits, for something that takes more the larger it is; 0 where 1 does not fit."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle <= limit and fits(middle) else (low, middle)
    return low
