"""Write architectures/defaults.json: what transformers' config classes give where a config.json leaves a key out.

Run it with the transformers release that the package follows: python scripts/extract_defaults.py
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

PACKAGE = Path(__file__).parents[1] / "src" / "moe_memprof" / "architectures"


def words_in_use() -> set[str]:
    """Every quoted name in the package's sources: a default that no rule asks for is not worth shipping."""
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")]
    return set(re.findall(r'"([A-Za-z0-9_]+)"', "\n".join(sources)))


def describe(config: type, used: set[str]) -> dict[str, Any]:
    """Fields, aliases and sub configs of one config class."""
    common = {f.name for f in dataclasses.fields(PreTrainedConfig)}
    order = [f.name for f in dataclasses.fields(config) if f.name not in common]
    aliases = {
        old: new
        for old, new in config.attribute_map.items()
        # An old name that is a field before the new one is written over by the new one's default: it has no effect.
        if (new in used or old in used) and not (old in order and new in order and order.index(old) < order.index(new))
    }
    used = used | set(aliases.values())
    given = {f.name: f.default for f in dataclasses.fields(config)}
    fields = {name: given[name] for name in order if name in used or name in aliases}
    specs = config.sub_configs_defaults or {}
    found: dict[str, Any] = {"fields": {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
    # A field that is itself an old name is stored under the new one, as setting the attribute does.
    found["fields"] = {aliases.get(k, k): v for k, v in found["fields"].items()}
    if aliases:
        found["aliases"] = dict(sorted(aliases.items()))
    if specs:
        found["sub"] = {key: [spec.model_type, spec.init_kwargs] for key, spec in sorted(specs.items())}
    return found


def model_class(kind: str) -> str | None:
    """The class that `describe` describes."""
    for task in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "TOKEN_CLASSIFICATION"):
        found = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").get(kind)
        if found:
            return str(found)
    return None


def extract(model_types: list[str]) -> dict[str, Any]:
    """The defaults of those model types and of every config inside them."""
    used = words_in_use()
    found: dict[str, Any] = {}
    waiting = [(kind, CONFIG_MAPPING[kind]) for kind in model_types]
    while waiting:
        kind, config = waiting.pop()
        if kind in found:
            continue
        found[kind] = describe(config, used)
        if kind in model_types and (built := model_class(kind)):
            found[kind]["class"] = built
        for spec in (config.sub_configs_defaults or {}).values():
            known = hasattr(spec.config_class, "sub_configs_defaults")
            waiting.append((spec.model_type, spec.config_class if known else CONFIG_MAPPING[spec.model_type]))
        if kind == "dbrx":  # its two sub configs have no model type
            for key, part in config.sub_configs.items():
                waiting.append((f"dbrx.{key}", part))
    return dict(sorted(found.items()))


def main() -> None:
    """Write the file."""
    from moe_memprof.architectures.registry import SUPPORTED

    path = PACKAGE / "defaults.json"
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in extract(sorted(SUPPORTED)).items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{path}: {len(lines)} configs, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
