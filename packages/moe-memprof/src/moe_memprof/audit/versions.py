"""The releases that the audit speaks about: those installed, those named, or else the newest that it was checked against."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from moe_memprof.errors import MemprofError

CHECKED = {"transformers": "5.23.0", "peft": "0.21.2", "bitsandbytes": "0.50.2"}
"""The newest release of each library whose behaviour the rules were compared with."""

FUSED_SINCE = (5, 0)
"""transformers holds the experts of a layer in one parameter per projection from this release on."""
CONVERTED_SINCE = (0, 19)
"""peft rewrites target_modules that were written for transformers 4 from this release on."""
STRINGS_CONVERTED_SINCE = (0, 20)
"""Before it, that rewriting took a regex or 'all-linear' apart into its letters."""
FIRST_NUMBER_SINCE = (0, 20)
"""Before it, layers_to_transform read the last number of a module's name: the expert's, where experts are modules."""
PARAMETERS_SINCE = (0, 17)
"""peft knows target_parameters from this release on."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release of one library."""

    library: str
    version: str
    source: Literal["installed", "named", "assumed"]
    """Assumed: neither installed nor named, so that the newest checked one stands in."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The leading numbers, to compare."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version.split("+")[0])[:3])

    def __str__(self) -> str:
        """Name, version, and how it is known where that is not plain."""
        return f"{self.library} {self.version}" + (" (assumed)" if self.source == "assumed" else "")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The three libraries that decide what is quantised and what is adapted."""

    transformers: Release
    peft: Release
    bitsandbytes: Release

    @property
    def fused_experts(self) -> bool:
        """Whether experts are three-dimensional parameters instead of nn.Linear modules."""
        return self.transformers.numbers >= FUSED_SINCE

    @property
    def releases(self) -> tuple[Release, Release, Release]:
        """All three."""
        return self.transformers, self.peft, self.bitsandbytes


def resolve_stack(
    *, transformers: str | None = None, peft: str | None = None, bitsandbytes: str | None = None
) -> Stack:
    """The releases named here; of those not named the installed ones, found without importing them.

    Raises:
        MemprofError: when a named version is no version.
    """
    return Stack(
        transformers=_release("transformers", transformers),
        peft=_release("peft", peft),
        bitsandbytes=_release("bitsandbytes", bitsandbytes),
    )


def _release(library: str, named: str | None) -> Release:
    if named is not None:
        if not re.match(r"\d+(\.\d+)*", named):
            raise MemprofError(f"--{library} {named!r}: not a version; give one such as {CHECKED[library]}")
        return Release(library=library, version=named, source="named")
    try:
        return Release(library=library, version=version(library), source="installed")
    except PackageNotFoundError:
        return Release(library=library, version=CHECKED[library], source="assumed")
