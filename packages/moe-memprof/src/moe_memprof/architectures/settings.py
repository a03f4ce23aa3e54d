"""A config.json as transformers reads it: its defaults where a key is left out, and keys spelled the old way.

`defaults.json` holds what transformers' config classes say, written by `scripts/extract_defaults.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from moe_memprof.errors import MemprofError

# transformers 5 renamed these; configs of older releases and of the models' authors still carry the left ones.
RENAMED_LAYER_TYPES = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}


# The architectures whose classes look a layer's own values up.
PER_LAYER = ("diffusion_gemma_text", "dots3_note_text", "dots3_note_vision_encoder", "gemma4_text", "step3p5")


@cache
def known_defaults() -> dict[str, Any]:
    """Per config class: `fields`, `aliases` and `sub` configs."""
    text = Path(__file__).with_name("defaults.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


class Settings:
    """The values of one config, checked as they are read."""

    __slots__ = ("aliases", "given", "kind", "sub_kinds", "values", "where")

    def __init__(self, kind: str, given: Mapping[str, Any], where: str | None = None) -> None:
        known = known_defaults()[kind]
        self.aliases: dict[str, str] = known.get("aliases", {})
        self.kind = kind
        self.where = where or kind
        self.given = given
        self.sub_kinds: dict[str, Any] = known.get("sub", {})
        if given.get("per_layer_config") is not None and kind not in PER_LAYER:
            raise MemprofError(
                f"config of {self.where}: per_layer_config is known here for {', '.join(PER_LAYER)} only; "
                "read the weights from safetensors headers instead"
            )
        self.values: dict[str, Any] = dict(known["fields"])
        # As in transformers a key under its old name is set last and wins.
        for key, value in given.items():
            if key not in self.aliases:
                self.values[key] = value
        for key, value in given.items():
            if key in self.aliases:
                self.values[self.aliases[key]] = value

    def wrong(self, key: str, rule: str) -> MemprofError:
        """The error for a value that cannot be."""
        value = self.values.get(self.aliases.get(key, key))
        had = "is missing" if value is None else f"is {str(value)[:60]!r}"
        return MemprofError(f"config of {self.where}: {key} {had}, but must be {rule}; correct it in config.json")

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands; `default` where it is missing or null."""
        value = self.values.get(self.aliases.get(key, key))
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "a whole number above 0")
        return value

    def count(self, key: str, default: int = 0) -> int:
        """A whole number, 0 included; `default` where it is missing or null."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.wrong(key, "a whole number, 0 or more")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; `default` where it is missing or null."""
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str) -> float:
        """A number above 0."""
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.wrong(key, "a number above 0")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object; an empty one where it is missing or null."""
        value = self.raw(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object")
        return value

    def sequence(self, key: str, length: int, otherwise: Callable[[int], Any] | Sequence[Any]) -> list[Any]:
        """A list with an entry per layer; where the config has none, `otherwise` gives them."""
        value = self.raw(key)
        if value is None:
            return [otherwise(i) for i in range(length)] if callable(otherwise) else list(otherwise)
        if not isinstance(value, list | tuple) or len(value) != length:
            raise self.wrong(key, f"a list with one entry for each of the {length} layers")
        return list(value)

    def layer_types(self, length: int, otherwise: Callable[[int], str], key: str = "layer_types") -> list[str]:
        """The kind of each layer, under transformers 5's names."""
        return [RENAMED_LAYER_TYPES.get(str(t), str(t)) for t in self.sequence(key, length, otherwise)]

    def sub(self, key: str, kind: str | None = None) -> Settings:
        """The config under that key, by its own defaults. transformers gives a missing one the parent's special defaults."""
        expected, special = self.sub_kinds.get(key, (kind, {}))
        given = self.raw(key)
        if given is None:
            given = special
        if not isinstance(given, Mapping):
            raise self.wrong(key, "an object, a config of its own")
        return Settings(kind or expected, given, f"{self.where}.{key}")

    def with_values(self, changes: Mapping[str, Any]) -> Settings:
        """The same with some values changed, as for one layer of a heterogeneous model."""
        other = object.__new__(Settings)
        other.kind, other.where, other.given = self.kind, self.where, self.given
        other.aliases, other.sub_kinds = self.aliases, self.sub_kinds
        other.values = self.values | {self.aliases.get(key, key): value for key, value in changes.items()}
        return other

    def per_layer(self, length: int) -> list[Settings] | None:
        """One view per layer where the config has a `per_layer_config`, otherwise None."""
        changes = self.raw("per_layer_config")
        if changes is None:
            return None
        if not isinstance(changes, Mapping):
            raise self.wrong("per_layer_config", "an object from layer number to the values that differ there")
        by_layer = {int(layer): values for layer, values in changes.items() if str(layer).isdigit()}
        if len(by_layer) != len(changes) or not all(isinstance(values, Mapping) for values in by_layer.values()):
            raise self.wrong("per_layer_config", "an object from layer number to the values that differ there")
        return [self.with_values(by_layer[i]) if i in by_layer else self for i in range(length)]
