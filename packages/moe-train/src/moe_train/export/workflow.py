"""`moe-train export`: from a finished run to a folder that others load, checked by loading it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train import __version__
from moe_train.config import RunConfig, load_config
from moe_train.errors import TrainError
from moe_train.export.check import Check, agreement, computed_afresh
from moe_train.export.reference import Reference, make_reference
from moe_train.files import read_json, write_folder, write_json
from moe_train.model import has_stacks_of_ours

if TYPE_CHECKING:
    import torch

    from moe_train.export.merge import Merged

SCHEMA = "moe-train/export@1"
FORMS = ("adapter", "merged", "nf4", "int8")
"""The adapter by itself; added to the base's weights; that, with experts and linears quantised."""
_BITS = {"nf4": 4, "int8": 8}
_QUANTISER = "moe_train.experts.quantizer"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written and what reloading it showed."""

    folder: Path
    form: str
    base: str
    onto: str
    """The weights that the adapter was added to: "original" or "trained" (the base as it was quantised for training)."""
    dtype: str
    names: str
    bytes: int
    files: int
    rounding_error: float | None
    """The part of the update that is wrong after it was rounded into the weights; None for an adapter."""
    check: Check

    def to_dict(self) -> dict[str, Any]:
        """Plain values, schema moe-train/export@1."""
        values = {
            key: getattr(self, key)
            for key in ("form", "base", "onto", "dtype", "names", "bytes", "files", "rounding_error")
        }
        return {
            "schema": SCHEMA,
            "moe-train": __version__,
            "folder": str(self.folder),
            **values,
            "check": self.check.to_dict(),
        }


def export_run(
    run: Path,
    to: Path,
    *,
    form: str = "adapter",
    onto: str = "trained",
    dtype: str = "base",
    names: str = "checkpoint",
    shard_bytes: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write a finished run's result, load it in a fresh process and compare it with the trained model.

    Args:
        run: the run's folder.
        to: the folder to make; it must not exist.
        form: of `FORMS`.
        onto: what an adapter of a quantised run is added to: "trained", the very weights it was trained on, made dense, or
            "original", the checkpoint's.
        dtype: "base" (the checkpoint's), "bfloat16" or "float32", of merged weights.
        names: "checkpoint" (the base's own, which inference engines read) or "transformers-5".
        shard_bytes: about how much goes into one file.
        tell: receives a line before each part of the work.

    Raises:
        TrainError: for a run that is not finished, a target that exists, a disk that is too small.
        GateFailed: when what was written does not load, or the fine-tune is not in it. Nothing is left at `to`.
    """
    config, full = _finished(run)
    if to.exists():
        raise TrainError(f"export: {to} exists already; choose another folder")
    if form == "adapter" and full:
        raise TrainError("export: a run of training.method=full has no adapter; add --merge")
    if (form != "merged" or names != "checkpoint") and has_stacks_of_ours(str(config.model)):
        raise TrainError(
            "export: nothing but moe-train knows stacks of this model's experts; add --merge, with the checkpoint's own names"
        )
    # What a checkpoint in MXFP4 was converted to is there in the loaded model alone.
    converted = "converted" in read_json(run / "model.json")
    trained = converted or (config.quantisation.weights != "none" and onto == "trained")
    where = "trained" if trained and form != "adapter" else "original"
    tell("loading the trained model")
    reference = make_reference(config, run, keep=where == "trained")
    if form != "adapter":
        _check_disk(to, run / "model" if full else reference.base)
    made: list[Exported] = []

    def fill(folder: Path) -> None:
        merged: Merged | None = None
        chosen, imports = "as trained", list[str]()
        if form == "adapter":
            tell("writing the adapter")
            _copy_adapter(run / "adapter", folder, reference.name)
        else:
            tell("adding what was trained to the weights")
            merged, chosen = _merge(
                run, reference, folder, dtype=dtype, names=names, shard_bytes=shard_bytes, full=full
            )
            if form in _BITS:
                tell(f"quantising to {form}")
                _quantise(folder, form, reference.device)
                imports.append(_QUANTISER)
        tell("loading it afresh" if imports else "loading it afresh, without moe-train")
        again = computed_afresh(
            str(reference.base if form == "adapter" else folder), reference.tokens, adapter=folder if form == "adapter" else None,
            dtype=reference.dtype, device=reference.device, imports=imports,
        )  # fmt: skip
        check = Check(
            tokens=len(again["logits"]), exported=agreement(reference.trained, again),
            base=agreement(reference.trained, reference.untrained), dtype=reference.dtype,
        )  # fmt: skip
        check.require()
        files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
        result = Exported(
            folder=to, form=form, base=reference.name, onto=where, dtype=chosen, names="transformers-5" if form in _BITS else names,
            bytes=sum(path.stat().st_size for path in files), files=len(files),
            rounding_error=None if merged is None or full else merged.rounding_error, check=check,
        )  # fmt: skip
        write_json(folder / "export.json", result.to_dict())
        made.append(result)

    write_folder(to, fill)
    return made[0]


def _finished(run: Path) -> tuple[RunConfig, bool]:
    """The run's configuration, and whether every weight was trained."""
    if not (run / "config.yaml").is_file():
        raise TrainError(f"run {run}: no config.yaml in it, so it is not a run of moe-train")
    config = load_config(run / "config.yaml")
    full = config.training.method == "full"
    if not (run / ("model" if full else "adapter")).is_dir():
        raise TrainError(f"run {run}: not finished; `moe-train resume {run}` goes on with it")
    return config, full


def _merge(
    run: Path, reference: Reference, folder: Path, *, dtype: str, names: str, shard_bytes: int | None, full: bool
) -> tuple[Merged, str]:
    import torch
    from transformers import AutoConfig

    from moe_train.export.merge import SHARD_BYTES, copy_surroundings, merge
    from moe_train.export.source import Checkpoint, Held, empty_model
    from moe_train.export.updates import read_updates

    base = reference.base
    stated = getattr(AutoConfig.from_pretrained(base), "dtype", None) or torch.float32
    chosen: torch.dtype = stated if dtype == "base" else getattr(torch, dtype)
    files = run / "model" if full else base
    source = Checkpoint(files, chosen) if reference.model is None else Held(reference.model, chosen)
    updates = {} if full else read_updates(empty_model(base, chosen), run / "adapter")
    merged = merge(source, updates, folder, names=names, shard_bytes=shard_bytes or SHARD_BYTES)
    copy_surroundings(base, folder, dtype=chosen)
    return merged, str(chosen).removeprefix("torch.")


def _quantise(folder: Path, form: str, device: str) -> None:
    """Read the merged shards into quantised weights, and put those in their place."""
    from transformers import AutoModelForCausalLM

    from moe_train.experts.quantizer import MoeQuantizationConfig, save_quantised

    dense = folder / ".dense"
    dense.mkdir()
    for path in list(folder.iterdir()):
        if path.suffix == ".safetensors" or path.name.endswith(".index.json"):
            path.rename(dense / path.name)
    shutil.copy(folder / "config.json", dense / "config.json")
    config = MoeQuantizationConfig(bits=_BITS[form])
    model = AutoModelForCausalLM.from_pretrained(
        dense, dtype="auto", quantization_config=config, device_map={"": device}
    )
    save_quantised(model, folder)
    shutil.rmtree(dense)


def _copy_adapter(adapter: Path, folder: Path, base: str) -> None:
    for path in adapter.iterdir():
        shutil.copy(path, folder / path.name)
    settings = folder / "adapter_config.json"
    values = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(
        json.dumps({**values, "base_model_name_or_path": base}, indent=2, sort_keys=True), encoding="utf-8"
    )


def _check_disk(to: Path, base: Path) -> None:
    needed = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    place = to.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise TrainError(f"export: {to} needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free there")
