"""The recorder with which a block writes down its tensors."""

from __future__ import annotations

from moe_memprof.architectures.base import Kind, Role, TensorSpec


class Weights:
    """A place in the module tree: what is written here goes under its prefix, layer and role into one list.

    Sizes are given as torch has them: a linear map is (out, in). `tower` marks another modality, whose tensors are all `other`.
    """

    __slots__ = ("layer", "prefix", "role", "specs", "tower")

    def __init__(
        self,
        prefix: str = "",
        *,
        role: Role = "other",
        layer: int | None = None,
        tower: bool = False,
        specs: list[TensorSpec] | None = None,
    ) -> None:
        self.prefix = prefix
        self.role: Role = role
        self.layer = layer
        self.tower = tower
        self.specs: list[TensorSpec] = [] if specs is None else specs

    def at(self, name: str, *, role: Role | None = None, layer: int | None = None) -> Weights:
        """The submodule of that name; the same place for an empty one."""
        return Weights(
            f"{self.prefix}{name}." if name else self.prefix,
            role=role or self.role,
            layer=self.layer if layer is None else layer,
            tower=self.tower,
            specs=self.specs,
        )

    def into_tower(self, name: str) -> Weights:
        """The submodule that holds another modality."""
        return Weights(f"{self.prefix}{name}." if name else self.prefix, role="other", tower=True, specs=self.specs)

    def add(self, name: str, shape: tuple[int, ...], kind: Kind, role: Role | None = None) -> None:
        """One tensor."""
        self.specs.append(
            TensorSpec(
                name=self.prefix + name,
                shape=shape,
                role="other" if self.tower else role or self.role,
                kind=kind,
                layer=self.layer,
            )
        )

    def parameter(self, name: str, *shape: int, role: Role | None = None) -> None:
        """An nn.Parameter of this module."""
        self.add(name, shape, "parameter", role)

    def linear(self, name: str, size_out: int, size_in: int, *, bias: bool = False, role: Role | None = None) -> None:
        """An nn.Linear."""
        self.add(f"{name}.weight", (size_out, size_in), "linear", role)
        if bias:
            self.add(f"{name}.bias", (size_out,), "linear", role)

    def norm(self, name: str, size: int, *, bias: bool = False) -> None:
        """An RMSNorm, or with a bias a LayerNorm."""
        self.add(f"{name}.weight", (size,), "norm", "norm")
        if bias:
            self.add(f"{name}.bias", (size,), "norm", "norm")

    def conv(self, name: str, *shape: int, bias: bool = False) -> None:
        """A convolution: (out channels, in channels per group, kernel sizes)."""
        self.add(f"{name}.weight", shape, "conv")
        if bias:
            self.add(f"{name}.bias", shape[:1], "conv")

    def embedding(self, name: str, rows: int, width: int, *, role: Role | None = None) -> None:
        """An nn.Embedding."""
        self.add(f"{name}.weight", (rows, width), "embedding", role)
