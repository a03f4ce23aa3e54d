"""What fits: the search against brute force, and the words of the commands."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from moe_memprof import MemprofError, RunSpec, estimate
from moe_memprof.cli import main
from moe_memprof.search import changed, largest, search
from published import MIXTRAL_8X7B, OLMOE_1B_7B

GIB = 2**30
RUN = RunSpec(config=OLMOE_1B_7B, dtype="bfloat16", sequences=4, length=1024, loss="stock", optimizer="adamw_fused")


@given(st.integers(0, 70_000), st.integers(1, 65_536))
def test_largest_is_the_last_that_fits(edge: int, limit: int) -> None:
    assert largest(lambda n: n <= edge, limit=limit) == min(edge, limit)


def test_largest_batch_against_one_more() -> None:
    budget = 24 * GIB
    found = search(RUN, budget)
    for method in found.methods:
        spec = replace(changed(RUN, method.set), sequences=1, accumulation=1)
        assert method.peak == estimate(spec).peak
        if method.sequences:
            assert estimate(replace(spec, sequences=method.sequences)).peak <= budget
            assert estimate(replace(spec, sequences=method.sequences + 1)).peak > budget
            assert (
                estimate(replace(spec, length=method.length)).peak
                <= budget
                < estimate(replace(spec, length=method.length + 16)).peak
            )


def test_the_cheapest_changes_do_fit_and_none_can_be_left_out() -> None:
    budget = 20 * GIB
    found = search(RUN, budget)
    assert not found.fits
    assert found.cheapest is not None
    together = [c.set for c in found.cheapest.changes]
    assert estimate(changed(RUN, ",".join(together))).peak == found.cheapest.peak <= budget
    for left_out in together:
        rest = [s for s in together if s != left_out]
        if rest:
            assert estimate(changed(RUN, ",".join(rest))).peak > budget
    assert all(
        found.cheapest.time <= other.time for other in found.others if all(c.learns_the_same for c in other.changes)
    )


def test_a_run_that_fits_needs_no_change() -> None:
    found = search(RUN, 200 * GIB)
    assert found.fits
    assert (found.cheapest, found.others) == (None, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lenght=3", "did you mean length"),
        ("length", "expected KEY=VALUE"),
        ("length=many", "expected a number"),
        ("padded=perhaps", "expected true or false"),
        ("length=0", "length: must be at least 1"),
        ("zero=7", "zero: must be"),
    ],
)
def test_bad_changes_are_refused(change: str, message: str) -> None:
    with pytest.raises(MemprofError, match=message):
        changed(RUN, change)


def test_changes_reach_the_run() -> None:
    made = changed(
        RUN, "batch=2,seq=512,checkpointing=reentrant,padded=yes,zero=2,world=4,loss_share=0.5,bits=8,method=qlora"
    )
    assert (made.sequences, made.length, made.checkpointing, made.padded) == (2, 512, "reentrant", True)
    assert (made.parallel.zero, made.parallel.world, made.loss_share, made.bits) == (2, 4, 0.5, 8)


@pytest.fixture
def mixtral(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL_8X7B))
    return str(tmp_path)


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_fit_and_whatif_as_commands(mixtral: str) -> None:
    text = invoke("fit", mixtral, "--available", 80)
    assert "does not fit" in text
    assert "cheapest changes" in text
    assert json.loads(invoke("fit", mixtral, "--available", 80, "--json"))["cheapest"]["peak"] <= 80 * GIB
    assert "No combination" in invoke("fit", mixtral, "--available", 8, code=1)
    assert "is there?" in invoke("fit", mixtral, code=2)
    text = invoke("whatif", mixtral, "--set", "checkpointing=non-reentrant", "--set", "seq=512", "--available", 141)
    assert "as given" in text
    assert "fits 141 GiB" in text
    both = json.loads(invoke("whatif", mixtral, "--set", "seq=512", "--json"))
    assert both["seq=512"]["peak"] < both["as given"]["peak"]
    assert "at least one change" in invoke("whatif", mixtral, code=2)


def test_layers_and_picture(mixtral: str, tmp_path) -> None:
    picture = tmp_path / "step.svg"
    text = invoke("estimate", mixtral, "--layers", "--picture", picture)
    assert "1-31" in text
    assert "8 experts" in text
    assert picture.read_text().startswith("<svg")
    assert "cannot be written" in invoke("estimate", mixtral, "--picture", tmp_path / "no" / "where.svg", code=2)


def test_bands_and_capacities_against_brute_force(tmp_path) -> None:
    from moe_memprof.devices import Parallel
    from moe_memprof.routing import bands, busiest_share, capacities, read_loads

    loads = [[70.0, 10.0, 10.0, 10.0, 0.0, 0.0, 0.0, 0.0], [12.5] * 8]
    path = tmp_path / "loads.json"
    path.write_text(json.dumps({"loads": loads}))
    assert read_loads(path) == loads
    assert busiest_share(loads, 4) == 0.8
    spec = RunSpec(
        config=MIXTRAL_8X7B, dtype="bfloat16", lora_experts=False, parallel=Parallel(world=4, expert_parallel=4)
    )
    balanced, measured, worst = bands(spec, loads)
    assert (balanced.busiest, measured.busiest, worst.busiest) == (1.0, 3.2, 4.0)
    assert balanced.peak < measured.peak < worst.peak
    alone = {band.peak for band in bands(replace(spec, parallel=Parallel()), loads)}
    assert len(alone) == 1
    rows = 2048 * 2
    for found in capacities(spec, loads):
        room = -(-int(found.factor * rows) // 8)
        dropped = sum(max(0.0, n / 100 * rows - room) for layer in loads for n in layer) / (2 * rows)
        assert found.dropped == pytest.approx(dropped)
        assert found.rows == 8 * room


@pytest.mark.parametrize("text", ["{", "[]", "[[1, -2]]", '[["a"]]', '{"x": 1}', "[[0, 0]]"])
def test_loads_that_cannot_be_are_refused(text: str, tmp_path) -> None:
    from moe_memprof.routing import read_loads

    path = tmp_path / "loads.json"
    path.write_text(text)
    with pytest.raises(MemprofError, match="loads"):
        read_loads(path)
    with pytest.raises(MemprofError, match="no such file"):
        read_loads(tmp_path / "none.json")
    (tmp_path / "x.trace").write_bytes(b"not a trace at all")
    with pytest.raises(MemprofError, match="neither a trace"):
        read_loads(tmp_path / "x.trace")


def test_overrides_on_the_command_line(mixtral: str) -> None:
    values = json.loads(invoke("estimate", mixtral, "--override", "tensor being read=0", "--buffer", 0.05, "--json"))
    load = next(p for p in values["phases"] if p["name"] == "load")
    assert {p["name"]: p["bytes"] for p in load["parts"]}["tensor being read"] == 0
    assert "expected PART=GIB" in invoke("estimate", mixtral, "--override", "x", code=2)
    assert "no part of this plan" in invoke("estimate", mixtral, "--override", "coffee=1", code=2)


def test_inventory_of_a_config_and_of_a_checkpoint(mixtral: str, tmp_path) -> None:
    text = invoke("inventory", mixtral)
    assert "46.70B parameters, 12.88B active per token" in text
    assert "45,097,156,608" in text
    values = json.loads(invoke("inventory", mixtral, "--json"))
    assert sum(values["by_role"].values()) == values["parameters"] == 46_702_792_704
    header = json.dumps({"a.experts.0.w1.weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    stored = invoke("inventory", tmp_path / "model.safetensors", "--stored", "--tensors")
    assert "a.experts.0.w1.weight  [2, 3]  routed expert  bfloat16" in stored
