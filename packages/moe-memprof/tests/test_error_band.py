"""The error band: order statistics against simulation, the shipped evidence against the benchmarks, receipts before either."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from moe_memprof import MemprofError, RunSpec, estimate
from moe_memprof.devices import Parallel
from moe_memprof.error_band import error_band, evidence, find_receipts, spread, step_rise
from moe_memprof.receipts import Reading, Receipt
from published import MIXTRAL_8X7B, OLMOE_1B_7B

PACKAGE = Path(__file__).parents[1]
CPU = RunSpec(config=OLMOE_1B_7B, device="cpu", dtype="bfloat16", length=4096, method="lora")


def receipts(*ratios: float, device: str = "cpu") -> list[Receipt]:
    return [
        Receipt(
            label=f"run {i}",
            readings=(Reading(phase="step", estimated=10**9, measured=round(r * 10**9)),),
            environment={"device": device},
        )
        for i, r in enumerate(ratios)
    ]


@pytest.mark.parametrize("n", [5, 20, 98, 400])
def test_the_next_ratio_falls_into_the_range_as_often_as_it_says(n) -> None:
    rng = random.Random(n)
    inside, rounds = 0, 4000
    for _ in range(rounds):
        *known, coming = (rng.lognormvariate(0, 0.3) for _ in range(n + 1))
        low, high, probability = spread(known)
        inside += low <= coming <= high
    assert inside / rounds == pytest.approx(probability, abs=0.015)
    assert n < 39 or probability >= 0.95


def test_the_shipped_evidence_is_what_the_benchmarks_hold() -> None:
    spec = importlib.util.spec_from_file_location("extract_evidence", PACKAGE / "scripts" / "extract_evidence.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert json.loads(script.OUT.read_text(encoding="utf-8")) == script.extract()
    assert len(evidence()["step_cpu"]["measured_over_planned"]) >= 60


def test_a_cpu_band_moves_what_the_step_adds_and_nothing_else() -> None:
    made = estimate(CPU)
    band = error_band(CPU, made)
    low, high, _ = spread(evidence()["step_cpu"]["measured_over_planned"])
    fixed = made.peak - step_rise(made.phase("step"))
    assert band.low == pytest.approx(fixed + low * (made.peak - fixed), abs=1)
    assert band.high == pytest.approx(fixed + high * (made.peak - fixed), abs=1)
    assert band.low < made.peak < band.high


def test_own_receipts_come_before_the_shipped_evidence_and_those_of_other_devices_do_not_count() -> None:
    made = estimate(CPU)
    few = error_band(CPU, made, receipts(1.5, 1.5, 1.5, 1.5))
    assert few == error_band(CPU, made) == error_band(CPU, made, receipts(*[1.5] * 9, device="cuda"))
    own = error_band(CPU, made, receipts(1.0, 1.1, 1.2, 1.3, 1.4))
    assert own.readings == 5
    assert own.low == made.peak  # the least of the receipts' ratios is 1
    assert own.high == pytest.approx(made.peak + 0.4 * step_rise(made.phase("step")), abs=2)


def test_a_cuda_band_holds_what_torch_does_not_count() -> None:
    spec = RunSpec(config=OLMOE_1B_7B, dtype="bfloat16", length=4096, method="full", baseline=2**29)
    band = error_band(spec, estimate(spec))
    bare = replace(spec, allocator=False, baseline=None)
    tensors = error_band(bare, estimate(bare))
    assert band.low < estimate(spec).peak < band.high
    assert band.high - band.low > 1.5 * (tensors.high - tensors.low)
    assert "GPU kernels unmeasured" in band.basis


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"parallel": Parallel(world=2, zero=3)}, "several devices"),
        ({"length": 1, "eval_length": 32768, "eval_sequences": 64}, "evaluate phase decides"),
        (
            {
                "method": "qlora",
                "quantise_experts": True,
                "expert_lora": "grouped",
                "length": 65536,
                "optimizer": "sgd",
            },
            "rule that has not been measured",
        ),
    ],
)
def test_where_nothing_was_measured_there_is_no_band_but_a_reason(change, why) -> None:
    spec = replace(CPU, **change)
    band = error_band(spec, estimate(spec))
    assert (band.low, band.high, band.readings) == (None, None, 0)
    assert why in band.basis


def test_receipts_are_found_as_runs_leave_them(tmp_path) -> None:
    for name, receipt in zip("ab", receipts(1.0, 1.2), strict=True):
        (tmp_path / name).mkdir()
        receipt.save(tmp_path / name / "receipt.json")
    assert [r.label for r in find_receipts([tmp_path])] == ["run 0", "run 1"]
    assert [r.label for r in find_receipts([tmp_path / "b", tmp_path / "a" / "receipt.json"])] == ["run 1", "run 0"]
    with pytest.raises(MemprofError, match="no such file or folder"):
        find_receipts([tmp_path / "c"])


def test_the_band_stands_in_the_estimates_json() -> None:
    spec = RunSpec(config=MIXTRAL_8X7B, device="cpu")
    made = estimate(spec)
    assert made.to_dict()["band"] is None
    made = replace(made, band=error_band(spec, made))
    assert made.to_dict()["band"]["low"] < made.peak
