from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from moe_train import TrainError
from moe_train.adapters import add_lora, trainable
from moe_train.assembly import find_layers, planned_targets
from moe_train.config import EvaluationConfig
from moe_train.data import Record
from moe_train.evaluate import check_disjoint, compare_losses, evaluation_items, ready_to_generate
from moe_train.prepare import prepare


def asked(prompt: str) -> Record:
    return Record(prompt=({"role": "user", "content": prompt},), completion="c", task="", source="d.jsonl:7")


def test_items_of_families_and_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"prompt": "own", "target": "1"}) + "\n")
    config = EvaluationConfig(
        tasks=("change",), retained_tasks=("addition", "change"), items_per_task=3, path=str(file)
    )
    items = evaluation_items(config)
    assert [i.task for i in items[:6]] == ["change"] * 3 + ["addition"] * 3
    assert items[6].prompt == "own"
    assert len(items) == 7
    assert evaluation_items(EvaluationConfig()) == []
    with pytest.raises(TrainError, match=r"evaluation: .*no_such"):
        evaluation_items(EvaluationConfig(tasks=("no_such",)))


def test_training_on_the_test_is_refused() -> None:
    items = evaluation_items(EvaluationConfig(tasks=("change",), items_per_task=5))
    check_disjoint([asked("something else")], items)
    with pytest.raises(TrainError, match=r"1 of 5 test items are also trained on \(first: d.jsonl:7\)"):
        check_disjoint([asked(f"  {items[2].prompt}\n")], items)


def test_merging_for_generation_leaves_no_trace(config_for: Any) -> None:
    config = config_for()
    loaded, _ = prepare(config)
    model = add_lora(loaded.model, planned_targets(config, loaded, find_layers(loaded)), config.lora)
    ids = torch.arange(5, 35)[None]
    model.eval()
    with torch.no_grad():
        base = model(input_ids=ids).logits
        for parameter in trainable(model).values():
            parameter.normal_(std=0.2)
        tuned = model(input_ids=ids).logits
        before = {n: p.clone() for n, p in model.named_parameters()}
        with ready_to_generate(model, adapted=True) as judged:
            torch.testing.assert_close(judged(input_ids=ids).logits, tuned, rtol=1e-4, atol=1e-5)
        with ready_to_generate(model, adapted=False) as judged:
            torch.testing.assert_close(judged(input_ids=ids).logits, base)
    assert not torch.allclose(base, tuned, atol=1e-2)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_dense_or_full_model_is_judged_as_it_is() -> None:
    model = torch.nn.Linear(2, 2)
    with ready_to_generate(model, adapted=True) as judged:
        assert judged is model


class TestLosses:
    def test_against_scipy(self) -> None:
        rng = np.random.default_rng(5)
        before = rng.normal(2.0, 0.5, 60)
        after = before - rng.normal(0.1, 0.2, 60)
        got = compare_losses(list(before), list(after))
        assert got.difference == pytest.approx(float((after - before).mean()))
        assert got.verdict == "better"
        # The permutation test's p-value is close to the paired t-test's on normal data, the interval to the t interval.
        t = stats.ttest_rel(after, before)
        assert got.p_value == pytest.approx(t.pvalue, abs=0.01)
        interval = t.confidence_interval()
        assert (got.low, got.high) == pytest.approx((interval.low, interval.high), abs=0.02)

    def test_verdicts(self) -> None:
        rng = np.random.default_rng(1)
        x, noise = rng.normal(2, 1, 40), rng.normal(0, 0.3, 40)
        assert compare_losses(list(x), list(x + 0.5 + noise)).verdict == "worse"
        assert compare_losses(list(x), list(x + noise - noise.mean())).verdict == "not enough data"

    def test_no_change_at_all(self) -> None:
        same = compare_losses([1.0, 2.0], [1.0, 2.0])
        assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)
        assert same.to_dict()["verdict"] == "not enough data"

    def test_few_records_are_tested_exactly(self) -> None:
        """All 2^4 sign flips: four gains of different size reach p = 2/16 and no lower."""
        assert compare_losses([1.0, 1.0, 1.0, 1.0], [0.9, 0.8, 0.7, 0.6]).p_value == pytest.approx(0.125)
