"""peft's rules for names: suffixes of whole parts, regexes over the whole name, layers by number, exclusions.

Sources: peft's `check_target_module_exists` and `_maybe_include_all_linear_layers` (0.21, and what differed before).
"""

from __future__ import annotations

import re
from typing import Literal

from moe_memprof.audit.layout import Layout
from moe_memprof.audit.request import LoraRequest, Patterns
from moe_memprof.audit.versions import FIRST_NUMBER_SINCE, Stack
from moe_memprof.errors import MemprofError

Excluded = Literal["excluded"]


def check(request: LoraRequest, key: str, *, stack: Stack | None = None) -> bool | Excluded:
    """Whether peft's matching takes a module's name: suffixes of whole parts for names, the whole name for a regex."""
    if request.exclude_modules and matches(request.exclude_modules, key):
        return "excluded"
    if any(re.match(rf"(^|.*\.){name}($|\..*)", key) for name in request.modules_to_save):
        return "excluded"
    targets = request.target_modules
    if targets is None or not matches(targets, key):
        return False
    if isinstance(targets, str) or key in targets or not request.layers_to_transform:
        return True
    return _layer_of(request, key, stack) in request.layers_to_transform


def all_linear(layout: Layout) -> list[str]:
    """Every nn.Linear and every module that derives from it, save the output head."""
    return [m.name for m in layout.modules.values() if m.kind == "linear" and m.name != "lm_head"]


def matches(patterns: frozenset[str] | str, key: str) -> bool:
    """Whether a regex takes the whole name, or a name of the set is it or its last parts."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, key) is not None
    # Every tail of the name that starts at a part: as many look-ups as the name has parts, however many patterns there are.
    parts = key.split(".")
    return any(".".join(parts[i:]) in patterns for i in range(len(parts)))


def _layer_of(request: LoraRequest, key: str, stack: Stack | None) -> int | None:
    first = stack is None or stack.peft.numbers >= FIRST_NUMBER_SINCE
    lead = ".*?" if first else ".*"
    for pattern in request.layers_pattern or (r"[^.]*",):
        begin = rf"(?:^|{lead}\.)" if request.layers_pattern and first else rf"{lead}\."
        found = re.match(rf"{begin}{pattern}\.(?P<index>\d+)\.", key)
        if found:
            return int(found["index"])
    return None


def check_regex(pattern: Patterns) -> None:
    """Refuses a regex that is none.

    Raises:
        MemprofError: with the reason.
    """
    if isinstance(pattern, str):
        try:
            re.compile(pattern)
        except re.error as error:
            raise MemprofError(f"regex {pattern!r}: {error}; a comma-separated list of names needs none") from None
