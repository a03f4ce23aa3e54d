"""What an audit finds: a table by role, and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moe_memprof.architectures.base import ROLES, Role
from moe_memprof.audit.peft_conversion import leaf_pattern
from moe_memprof.audit.peft_targets import Targets
from moe_memprof.audit.quantised import Held
from moe_memprof.audit.versions import Stack

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the stack does without saying so."""

    rule: str
    """Its name, stable, for scripts."""
    severity: Severity
    """Error: the run is not what was asked for, or does not start."""
    what: str
    where: tuple[str, ...] = ()
    """Names with their layers left out, and how many there are of each."""
    cost: int | None = None
    """Bytes, where it costs memory."""
    mend: str | None = None
    """What to set instead."""


@dataclass(frozen=True, kw_only=True)
class RoleRow:
    """The weights of one role."""

    role: Role
    parameters: int
    expected: int
    """Bytes that one expects of this way of loading."""
    held: int
    """Bytes as they stay in memory."""
    prepared: int
    """Bytes after prepare_model_for_kbit_training."""
    forms: tuple[str, ...]
    """How the weights are held, the most bytes first."""
    quantised: float
    """Share of the parameters that is quantised."""
    adapted: float
    """Share of the parameters that gets an adapter or is trained whole."""
    adapter_parameters: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What loading and adapting a model really does, before anything is downloaded."""

    model_type: str
    stack: Stack
    loading: str
    """In words."""
    rows: tuple[RoleRow, ...]
    findings: tuple[Finding, ...]
    """The most severe first."""
    adapted_modules: tuple[str, ...]
    """Full names of modules that get an adapter."""
    adapted_parameters: tuple[str, ...]
    """Full names of parameters that peft wraps."""

    @property
    def expected(self) -> int:
        """Bytes of weights that one expects."""
        return sum(row.expected for row in self.rows)

    @property
    def held(self) -> int:
        """Bytes of weights that stay in memory."""
        return sum(row.held for row in self.rows)

    @property
    def prepared(self) -> int:
        """Bytes of weights after prepare_model_for_kbit_training."""
        return sum(row.prepared for row in self.rows)

    @property
    def adapter_parameters(self) -> int:
        """Parameters of all adapters."""
        return sum(row.adapter_parameters for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return all(f.severity != "error" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; bytes throughout. Full names are counted with their layers left out."""
        return {
            "schema": "moe-memprof/audit@1",
            "model_type": self.model_type,
            "versions": {r.library: {"version": r.version, "source": r.source} for r in self.stack.releases},
            "loading": self.loading,
            "ok": self.ok,
            "expected": self.expected,
            "held": self.held,
            "prepared": self.prepared,
            "adapter_parameters": self.adapter_parameters,
            "roles": [asdict(row) for row in self.rows],
            "adapted_modules": counted(self.adapted_modules),
            "adapted_parameters": counted(self.adapted_parameters),
            "findings": [asdict(finding) for finding in self.findings],
        }


def rows_of(held: Sequence[Held], targets: Targets | None) -> tuple[RoleRow, ...]:
    """The table by role, roles that do not occur left out. `targets` is None where nothing is adapted."""
    adapters: Counter[Role] = Counter()
    trained: set[str] = set()
    if targets is not None and targets.refused is None:
        for adapted in targets.adapted:
            adapters[adapted.tensor.role] += adapted.elements
            trained.add(adapted.tensor.name)
        trained |= {tensor.name for tensor in targets.saved}
    rows = []
    for role in ROLES:
        mine = [h for h in held if h.tensor.role == role]
        total = sum(h.tensor.elements for h in mine)
        if not total:
            continue
        forms: Counter[str] = Counter()
        for h in mine:
            forms[h.form] += h.bytes
        rows.append(
            RoleRow(
                role=role,
                parameters=total,
                expected=sum(h.expected for h in mine),
                held=sum(h.bytes for h in mine),
                prepared=sum(h.prepared for h in mine),
                forms=tuple(form for form, _ in forms.most_common()),
                quantised=sum(h.tensor.elements for h in mine if h.quantised) / total,
                adapted=sum(h.tensor.elements for h in mine if h.tensor.name in trained) / total,
                adapter_parameters=adapters[role],
            )
        )
    return tuple(rows)


def counted(names: Iterable[str]) -> dict[str, int]:
    """Names with the numbers of layers and experts left out, and how many there are of each."""
    return dict(Counter(leaf_pattern(name) for name in names))


def places(names: Iterable[str], *, most: int = 4) -> tuple[str, ...]:
    """The same as a few lines of text."""
    found = [f"{name} ({n})" if n > 1 else name for name, n in counted(names).items()]
    return tuple(found[:most]) + ((f"and {len(found) - most} more",) if len(found) > most else ())
