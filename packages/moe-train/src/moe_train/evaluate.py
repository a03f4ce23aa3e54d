"""Judging the model before and after: answers to test items, and the loss on held-out records.

Both are paired: the same items, the same records, in the same order.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_train.data import Record, prompt_id
from moe_train.errors import TrainError

if TYPE_CHECKING:
    from torch import nn

    from moe_bench import Item
    from moe_train.config import EvaluationConfig
    from moe_train.model import LoadedModel

LOSS_SCHEMA = "moe-train/losses@1"
_RESAMPLES = 9999


def evaluation_items(config: EvaluationConfig) -> list[Item]:
    """The test items that the configuration names: generated families, then those of a file.

    Raises:
        TrainError: for a file that is missing or holds a line without `prompt` and `target`.
    """
    from moe_bench import BenchError, load_items
    from moe_bench.tasks import make_items

    try:
        names = [*config.tasks, *(t for t in config.retained_tasks if t not in config.tasks)]
        items = make_items(names, count_per_family=config.items_per_task, seed=0, split="test")
        return items + (load_items(Path(config.path)) if config.path else [])
    except BenchError as error:
        raise TrainError(f"evaluation: {error}") from None


def check_disjoint(records: Sequence[Record], items: Sequence[Item]) -> None:
    """Refuse test items that are also trained on.

    Raises:
        TrainError: saying how many, and naming the first.
    """
    trained = {record.prompt_id: record for record in records}
    shared = [item for item in items if prompt_id([{"role": "user", "content": item.prompt}]) in trained]
    if shared:
        first = trained[prompt_id([{"role": "user", "content": shared[0].prompt}])]
        raise TrainError(
            f"evaluation: {len(shared)} of {len(items)} test items are also trained on (first: {first.source}); "
            "take them out of one of the two"
        )


@contextlib.contextmanager
def ready_to_generate(model: nn.Module, *, adapted: bool) -> Iterator[nn.Module]:
    """The model as it is to be judged: without its adapter, or with it.

    In fp32 the adapter is merged for as long as it generates, which is exact to rounding and spares building the update of
    every expert for every token; in lower precision a merge would lose part of it, so it stays apart.
    """
    import torch
    from peft import PeftModel

    from moe_train.model import is_quantised

    if not isinstance(model, PeftModel):
        yield model
    elif not adapted:
        with model.disable_adapter():
            yield model
    elif next(model.parameters()).dtype == torch.float32 and not is_quantised(model.get_base_model()):
        # PEFT's merge adds and its unmerge subtracts: put the exact weights back instead.
        before = {name: p.detach().clone() for name, p in model.named_parameters() if ".base_layer" in name}
        model.merge_adapter()
        try:
            yield model
        finally:
            model.unmerge_adapter()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in before:
                        parameter.copy_(before[name])
    else:
        yield model


def answer_items(
    loaded: LoadedModel,
    model: nn.Module,
    items: Sequence[Item],
    out: Path,
    *,
    config: EvaluationConfig,
    label: str,
    progress: Callable[[int, int], None],
) -> None:
    """Generate and score an answer to every item, into a run folder of moe-bench; a stopped one goes on where it was.

    Raises:
        TrainError: when the answers of a stopped run were given under other settings, or cannot be written.
    """
    from moe_bench import BenchError, run_items
    from moe_bench.models import HFModel

    generator = HFModel(model, loaded.tokenizer, batch_size=config.batch_size, max_new_tokens=config.max_new_tokens)
    try:
        run_items(
            generator,
            items,
            out,
            suite="moe-train",
            model_name=f"{loaded.name} ({label})",
            progress=progress,
        )
    except BenchError as error:
        if isinstance(error.__cause__, OSError):
            raise  # `disk_errors` says how to go on with the whole run
        raise TrainError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class LossComparison:
    """The loss on held-out records, paired."""

    records: int
    before: float
    """Mean over records of the nats per completion token."""
    after: float
    difference: float
    """after − before; below zero is better."""
    low: float
    """95 % interval of the difference, BCa bootstrap over records."""
    high: float
    p_value: float
    """Two-sided sign-flip permutation test of the paired differences."""

    @property
    def verdict(self) -> str:
        """better, worse or not enough data, at 5 %."""
        if self.p_value > 0.05:
            return "not enough data"
        return "better" if self.difference < 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "verdict": self.verdict}


def compare_losses(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> LossComparison:
    """Compare the losses of the same records before and after.

    The interval is scipy's BCa bootstrap, the p-value its paired permutation test (sign flips: exact when there are few
    enough records, else with 9,999 random ones).
    """
    import numpy as np
    from scipy import stats

    x, y = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    change = y - x
    low = high = float(change.mean())
    p_value = 1.0
    if np.ptp(change) > 0:
        interval = stats.bootstrap(
            (change,), np.mean, n_resamples=_RESAMPLES, rng=np.random.default_rng(seed)
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        p_value = float(
            stats.permutation_test(
                (change,),
                np.mean,
                permutation_type="samples",
                n_resamples=_RESAMPLES,
                vectorized=True,
                rng=np.random.default_rng(seed),
            ).pvalue
        )
    return LossComparison(
        records=len(x),
        before=float(x.mean()),
        after=float(y.mean()),
        difference=float(change.mean()),
        low=low,
        high=high,
        p_value=p_value,
    )


def load_losses(path: Path) -> dict[str, float]:
    """Record id → nats per completion token, as `workflow` wrote them."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return {record_id: loss for record_id, loss, _ in values["records"]}
