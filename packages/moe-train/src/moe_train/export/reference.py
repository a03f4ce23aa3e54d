"""The trained model of a run and its base, as what they compute on held-out tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.errors import TrainError
from moe_train.export.check import check_tokens, computed_afresh
from moe_train.export.plain import compute

if TYPE_CHECKING:
    from moe_train.config import RunConfig
    from moe_train.model import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an export is compared with."""

    name: str
    """Of the base, as the configuration has it."""
    base: Path
    """The base's files."""
    dtype: str
    """In which it was computed."""
    device: str
    tokens: list[tuple[list[int], int]]
    trained: dict[str, Any]
    """`plain.compute` of the trained model."""
    untrained: dict[str, Any]
    """The same of its base, as it was held for training."""
    model: Any
    """The model itself where it was to be kept, else None: a base may be as large as the machine."""


def make_reference(config: RunConfig, run: Path, *, keep: bool) -> Reference:
    """Load a run's model and let it, and its base, compute.

    Args:
        config: the run's.
        run: its folder, with `adapter` or, where every weight was trained, `model`.
        keep: whether the loaded model is needed afterwards.

    Raises:
        TrainError: data or model that have changed since; an adapter that is not this run's.
    """
    from moe_train.prepare import check_unchanged, prepare

    loaded, data = prepare(config)
    check_unchanged(run, config, loaded, data)
    tokens = check_tokens(data.held_out)
    dtype, device = str(loaded.model.dtype).removeprefix("torch."), str(loaded.model.device)
    if config.training.method == "full":
        untrained = compute(loaded.model.eval(), tokens)
        trained = computed_afresh(str(run / "model"), tokens, adapter=None, dtype=dtype, device=device)
    else:
        model = with_adapter(config, run, loaded).eval()
        trained = compute(model, tokens)
        with model.disable_adapter():
            untrained = compute(model, tokens)
    return Reference(
        name=loaded.name, base=_local(loaded.path), dtype=dtype, device=device, tokens=tokens, trained=trained, untrained=untrained,
        model=loaded.model if keep else None,
    )  # fmt: skip


def with_adapter(config: RunConfig, run: Path, loaded: LoadedModel) -> Any:
    """The model with the adapter that the run has written.

    Raises:
        TrainError: for an adapter's file that does not fit the model.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from moe_train.assembly import adapted, find_layers, planned_targets

    model: Any = adapted(config, loaded, planned_targets(config, loaded, find_layers(loaded)))
    result = set_peft_model_state_dict(model, load_file(str(run / "adapter" / "adapter_model.safetensors")))
    absent = [key for key in result.missing_keys if ".lora_" in key]
    if result.unexpected_keys or absent:
        raise TrainError(
            f"adapter {run / 'adapter'}: {[*result.unexpected_keys, *absent][0]} does not fit; the file is not this run's"
        )
    return model


def _local(path: str) -> Path:
    """The folder of a model; of one from the hub, that of its files in the cache."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]))
