"""What LoRA is asked to adapt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_memprof.errors import MemprofError

Patterns = frozenset[str] | str | None
"""A set of names, a regex or 'all-linear', or nothing given: peft tells all three apart."""


@dataclass(frozen=True, kw_only=True)
class LoraRequest:
    """The fields of peft's LoraConfig that decide what is adapted."""

    target_modules: Patterns = None
    target_parameters: frozenset[str] | None = None
    exclude_modules: Patterns = None
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank: int = 16
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    dropout: float = 0.0
    use_dora: bool = False
    lora_bias: bool = False

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            MemprofError: naming the field, the rule and the value.
        """
        if self.rank < 1:
            raise MemprofError(f"--rank {self.rank}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise MemprofError(f"lora_dropout: must be from 0 to below 1, got {self.dropout}")


def read_adapter_config(path: str | Path) -> LoraRequest:
    """The request that an adapter_config.json of peft holds; a folder that holds one will do.

    Raises:
        MemprofError: when it cannot be read, or is no LoRA.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "adapter_config.json"
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise MemprofError(f"--peft-config {place}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise MemprofError(f"--peft-config {place}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise MemprofError(f"--peft-config {place}: expected an object, found a {type(values).__name__}")
    if str(values.get("peft_type", "LORA")).upper() != "LORA":
        raise MemprofError(f"--peft-config {place}: peft_type is {values['peft_type']!r}; only LORA is audited")
    try:
        return _request(values)
    except (TypeError, ValueError) as error:
        raise MemprofError(f"--peft-config {place}: {error}") from None


def _request(values: Mapping[str, Any]) -> LoraRequest:
    layers = values.get("layers_to_transform")
    pattern = values.get("layers_pattern")
    return LoraRequest(
        target_modules=_patterns(values.get("target_modules")),
        target_parameters=None if values.get("target_parameters") is None else frozenset(values["target_parameters"]),
        exclude_modules=_patterns(values.get("exclude_modules")),
        modules_to_save=tuple(values.get("modules_to_save") or ()),
        layers_to_transform=None if layers is None else tuple([layers] if isinstance(layers, int) else layers),
        layers_pattern=tuple([pattern] if isinstance(pattern, str) else pattern or ()),
        rank=int(values.get("r", 8)),
        rank_pattern={str(k): int(v) for k, v in (values.get("rank_pattern") or {}).items()},
        dropout=float(values.get("lora_dropout") or 0),
        use_dora=bool(values.get("use_dora")),
        lora_bias=bool(values.get("lora_bias")),
    )


def _patterns(value: Any) -> Patterns:
    return value if value is None or isinstance(value, str) else frozenset(str(v) for v in value)
