"""The command as a user runs it, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from moe_memprof import MemprofError
from moe_memprof.cli import main
from moe_memprof.measure import MemoryTracker
from moe_memprof.profiling import profile_program
from moe_memprof.receipts import Reading, Receipt, summarise
from published import MIXTRAL_8X7B


@pytest.fixture
def mixtral(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL_8X7B))
    return tmp_path


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_estimate_says_whether_it_fits(mixtral) -> None:
    assert "does not fit" in invoke("estimate", mixtral, "--gpu", "RTX 4090", code=1)
    assert "fits" in invoke("estimate", mixtral / "config.json", "--available", 400)
    values = json.loads(invoke("estimate", mixtral, "--available", 400, "--json"))
    assert (values["schema"], values["fits"], values["parameters"]) == ("moe-memprof/estimate@1", True, 46_702_792_704)
    assert "46.70B parameters" in invoke("estimate", mixtral)


def test_estimate_states_its_band_and_where_experts_could_be(mixtral, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "error band: " in invoke("estimate", mixtral, "--checkpointing")
    text = invoke("estimate", mixtral, "--checkpointing", "--patterns", "--link", 25)
    assert "where the experts are" in text
    assert "seconds" in text
    values = json.loads(invoke("estimate", mixtral, "--patterns", "--json"))
    assert [p["kept"] for p in values["patterns"]] == [8, 4, 2, 0, 0]
    for i in range(5):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        reading = Reading(phase="step", estimated=10**9, measured=10**9 + i)
        Receipt(label="r", readings=(reading,), environment={"device": "cuda"}).save(
            tmp_path / "runs" / str(i) / "receipt.json"
        )
    assert "5 receipts of your runs" in " ".join(invoke("estimate", mixtral, "--checkpointing").split())
    assert "no such file" in invoke("estimate", mixtral, "--receipts", tmp_path / "none", code=2)


def test_estimate_reads_the_cache_of_the_hub(tmp_path, monkeypatch) -> None:
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(MIXTRAL_8X7B))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert "46.70B" in invoke("estimate", "owner/name")


def test_estimate_imports_no_torch(mixtral) -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom moe_memprof.cli import main\n"
        f"assert CliRunner().invoke(main, ['estimate', {str(mixtral)!r}]).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate", "nowhere"], "no config.json there"),
        (["estimate", "{tmp}", "--gpu", "Abacus"], "'Abacus': not in the table"),
        (["estimate", "{tmp}", "--gpu", "H100", "--available", "3"], "keep one"),
        (["estimate", "{tmp}/broken.json"], "not JSON"),
        (["estimate", "{tmp}/list.json"], "found a list"),
        (["compare", "{tmp}/none.json"], "no such file"),
        (["compare", "{tmp}/broken.json"], "not a readable JSON"),
        (["compare", "{tmp}/config.json"], "its schema is None"),
        (["profile", "--", "no-such-program-here"], "cannot be started"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message: str, mixtral) -> None:
    (mixtral / "broken.json").write_text("{")
    (mixtral / "list.json").write_text("[]")
    result = CliRunner().invoke(main, [a.format(tmp=mixtral) for a in arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_receipts_keep_the_score(tmp_path) -> None:
    paths = []
    for label, estimated in (("one", 110), ("two", 95)):
        paths.append(tmp_path / f"{label}.json")
        receipt = Receipt(
            label=label,
            readings=(Reading(phase="step", estimated=estimated, measured=100),),
            environment={"device": "cpu"},
        )
        receipt.save(paths[-1])
        assert Receipt.load(paths[-1]) == receipt
    summary = summarise([Receipt.load(p) for p in paths])
    assert (summary.readings, summary.worst_error) == (2, 0.1)
    assert summary.median_absolute_error == pytest.approx(0.075)
    assert "+10.0 %" in invoke("compare", *paths)
    assert json.loads(invoke("compare", *paths, "--json"))["readings"] == 2
    with pytest.raises(MemprofError, match="above 0 bytes"):
        Receipt(label="x", readings=(Reading(phase="step", estimated=1, measured=0),), environment={})
    with pytest.raises(MemprofError, match="no receipt"):
        summarise([])


def test_tracker_sees_an_allocation_in_its_phase(tmp_path) -> None:
    path = tmp_path / "memory.jsonl"
    with MemoryTracker(path, interval=0.01) as tracker:
        with tracker.phase("before"):
            time.sleep(0.03)
        with tracker.phase("big"):
            block = bytearray(64 * 2**20)
            time.sleep(0.05)
    peaks = tracker.peaks()
    assert len(block) == 64 * 2**20
    assert set(peaks) == {"before", "big"}
    assert peaks["big"] - peaks["before"] == pytest.approx(64 * 2**20, rel=0.2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"t", "phase", "rss", "device_allocated"} == set(lines[0])
    assert max(line["rss"] for line in lines if line["phase"] == "big") == peaks["big"]
    assert tracker.device_peaks() == {}
    with pytest.raises(MemprofError, match="above 0 seconds"):
        MemoryTracker(interval=0)


def test_profile_sees_a_childs_memory_and_passes_its_exit_code(tmp_path) -> None:
    child = "block = bytearray(96 * 2**20); import time; time.sleep(0.6)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sys.exit(7)"
    path = tmp_path / "samples.jsonl"
    result = profile_program([sys.executable, "-c", parent], interval=0.02, path=path)
    assert result.exit_code == 7
    assert result.peak > 96 * 2**20
    assert len(path.read_text().splitlines()) == result.samples > 3
    output = invoke("profile", "--interval", "0.02", "--", sys.executable, "-c", "import time; time.sleep(0.2)")
    assert "peak" in output
