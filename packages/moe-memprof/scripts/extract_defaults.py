"""Write architectures/defaults.json: what transformers' config classes give where a config.json leaves a key out.

Run it with the transformers release that the package follows: python scripts/extract_defaults.py
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

PACKAGE = Path(__file__).parents[1] / "src" / "moe_memprof" / "architectures"


def words_in_use() -> set[str]:
    """Every quoted name in the package's sources: a default that no rule asks for is not worth shipping."""
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")]
    return set(re.findall(r'"([A-Za-z0-9_]+)"', "\n".join(sources)))


def describe(config: type, used: set[str]) -> dict[str, Any]:
    """Fields, aliases and sub configs of one config class."""
    aliases = {old: new for old, new in config.attribute_map.items() if new in used or old in used}
    used = used | set(aliases.values())
    fields = {f.name: f.default for f in dataclasses.fields(config) if f.name in used or f.name in aliases}
    specs = config.sub_configs_defaults or {}
    found: dict[str, Any] = {"fields": {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
    # A field that is itself an old name is stored under the new one, as setting the attribute does; the later one of both wins.
    found["fields"] = {aliases.get(k, k): v for k, v in found["fields"].items()}
    if aliases:
        found["aliases"] = dict(sorted(aliases.items()))
    if specs:
        found["sub"] = {key: [spec.model_type, spec.init_kwargs] for key, spec in sorted(specs.items())}
    return found


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
        for spec in (config.sub_configs_defaults or {}).values():
            known = hasattr(spec.config_class, "sub_configs_defaults")
            waiting.append((spec.model_type, spec.config_class if known else CONFIG_MAPPING[spec.model_type]))
        if kind == "dbrx":  # its two sub configs have no model type
            for key, part in config.sub_configs.items():
                waiting.append((f"dbrx.{key}", part))
    return dict(sorted(found.items()))


def main() -> None:
    """Write the file."""
    from moe_memprof.architectures.registry import ARCHITECTURES

    path = PACKAGE / "defaults.json"
    lines = [
        f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in extract(sorted(ARCHITECTURES)).items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{path}: {len(lines)} configs, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
