"""The table of GPUs, its names, what drivers print, and the advice, without torch and without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from moe_memprof import MemprofError, RunSpec
from moe_memprof import estimate as make_estimate
from moe_memprof.cli import main
from moe_memprof.hardware import GPUS, TABLE, Gpu, Hardware, advise, detect, identify, known_models, lookup
from moe_memprof.hardware.detect import (
    cgroup_limit,
    parse_amd_smi,
    parse_nvidia_smi,
    parse_rocm_smi,
    parse_sysctl,
)
from moe_memprof.hardware.presets import CLASSES
from moe_memprof.hardware.table import _keys, working_set

GIB, MIB = 2**30, 2**20
FEATURES = ("bf16", "tf32", "fp8", "fp4", "grouped_mm", "flash2", "mxfp4")


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["hardware", *arguments], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result.output


def machine(*gpus: Gpu) -> Hardware:
    return Hardware(total=64 * GIB, available=60 * GIB, limit=None, cpus=8, gpus=gpus)


@pytest.mark.parametrize("row", TABLE.values(), ids=list(TABLE))
def test_rows_are_complete_and_consistent(row) -> None:
    assert row.vendor in {"NVIDIA", "AMD", "Intel", "Apple"}
    assert row.segment in {"consumer", "workstation", "data center", "unified"}
    assert row.source
    assert row.link
    assert row.bandwidth > 0
    assert 0.6 * row.memory_gb * GIB < row.usable <= row.memory_gb * GIB
    assert row.basis in {"measured", "data sheet", "default share"}
    if row.basis == "data sheet" and row.vendor != "AMD":
        assert row.usable == row.memory_gb * 10**9
    assert (row.capability is None) == (row.vendor != "NVIDIA")
    support = row.to_dict()["supports"]
    assert set(support) == set(FEATURES)
    for rate in ("bf16", "fp8", "fp4"):  # a rate without the type would be a slip
        assert getattr(row, rate) is None or support[rate]
    if row.capability is not None:
        assert (
            support["bf16"]
            is support["tf32"]
            is support["grouped_mm"]
            is support["flash2"]
            is (row.capability >= (8, 0))
        )
        assert support["fp8"] is (row.capability >= (8, 9))
        assert support["fp4"] is (row.capability >= (10, 0))
        assert support["mxfp4"] is (row.capability >= (7, 5))
    if row.bf16 is not None and row.fp8 is not None:  # every such unit doubles its rate with half the bits
        assert row.fp8 == pytest.approx(2 * row.bf16, rel=0.02)


def test_no_two_rows_share_a_name() -> None:
    keys = [key for row in TABLE.values() for key in _keys(row)]
    assert len(keys) == len(set(keys))


def test_names_of_the_first_release_stay() -> None:
    first = {"A10": 24, "A100-40GB": 40, "A100-80GB": 80, "H100": 80, "H200": 141, "L4": 24, "L40S": 48, "RTX 3090": 24}
    first |= {"RTX 4090": 24, "RTX 5090": 32, "RTX A6000": 48, "T4": 16, "V100-16GB": 16, "V100-32GB": 32}
    assert {name: GPUS[name] for name in first} == first


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("rtx-4090 24GB", "RTX 4090"),
        ("3060 12 GiB", "RTX 3060 12GB"),
        ("h100-80gb", "H100"),
        ("H100", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("h100 pcie", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB PCIe"),
        ("a100 40gb", "A100-40GB"),
        ("Tesla T4", "T4"),
        ("a6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("dgx spark", "GB10"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("AMD Instinct MI300X", "MI300X"),
        ("mi250x", "MI250X GCD"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("AMD Radeon PRO W7900", "W7900"),
        ("AMD Radeon(TM) 8060S Graphics", "Strix Halo 128GB"),
        ("Apple M3 Max 128 GB", "M3 Max 128GB"),
        ("Intel(R) Data Center GPU Max 1550", "Max 1550 stack"),
        ("Intel(R) Arc(TM) A770 Graphics 16GB", "Arc A770 16GB"),
    ],
)
def test_names_are_forgiving(name: str, row: str) -> None:
    assert lookup(name).name == row


@given(
    st.sampled_from(sorted(TABLE)),
    st.sampled_from([str.upper, str.lower, lambda n: n.replace(" ", ""), lambda n: n.replace(" ", "-")]),
)
def test_case_and_spaces_do_not_matter(name: str, change) -> None:
    assert lookup(change(name)).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("A100", "say which, A100-40GB or A100-80GB or A100-80GB PCIe"),
        ("v100", "say which, V100-16GB or V100-32GB"),
        ("m2 ultra", "say which, M2 Ultra 64GB or M2 Ultra 128GB or M2 Ultra 192GB"),
        ("RTX", r"or \d+ more"),
        ("RTX 4090 Ti", "not in the table; did you mean .*RTX 4090"),
        ("RTX 4060 Ti", "did you mean RTX 4060 Ti 16GB"),
        ("RTX 4090 48GB", "not in the table"),
        ("RTX 4090 Laptop GPU", "not in the table"),
        ("Abacus", "'Abacus': not in the table; `moe-memprof hardware --all` lists it"),
        ("", "not in the table"),
    ],
)
def test_what_is_not_one_row_is_refused(name: str, message: str) -> None:
    with pytest.raises(MemprofError, match=message) as error:
        lookup(name)
    assert "\n" not in str(error.value)


def test_nvidia_smi() -> None:
    assert parse_nvidia_smi("NVIDIA H200, 143771, 143000\nTesla, T4, 15360, 15000\n") == [
        Gpu(name="NVIDIA H200", total=143771 * MIB, free=143000 * MIB),
        Gpu(name="Tesla, T4", total=15360 * MIB, free=15000 * MIB),
    ]
    shared = "NVIDIA GB10, [N/A], [N/A]\n"
    assert parse_nvidia_smi(shared) == []
    (spark,) = parse_nvidia_smi(shared, host=(122480 * MIB, 100 * GIB))
    assert spark.row is TABLE["GB10"]
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") == []
    assert parse_nvidia_smi("") == []


@pytest.mark.parametrize("wrap", [list, lambda entries: {"gpu_data": entries}])
def test_amd_smi(wrap) -> None:
    size = {"value": 196592, "unit": "MB"}
    static = [{"gpu": 0, "asic": {"market_name": "AMD Instinct MI300X"}, "vram": {"size": size}}]
    static.append(
        {"gpu": 1, "asic": {"market_name": "AMD Instinct MI300X"}, "vram": {"size": {"value": "N/A", "unit": "MB"}}}
    )
    metric = [{"gpu": 0, "mem_usage": {"total_vram": size, "used_vram": {"value": 283, "unit": "MB"}}}]
    (gpu,) = parse_amd_smi(json.dumps(wrap(static)), json.dumps(wrap(metric)))
    assert gpu == Gpu(name="AMD Instinct MI300X", total=196592 * MIB, free=(196592 - 283) * MIB, vendor="AMD")
    assert gpu.row is TABLE["MI300X"]
    assert parse_amd_smi(json.dumps(wrap(static)))[0].free == 196592 * MIB


@pytest.mark.parametrize(
    "text", ["", "no JSON", "3", "[1, 2]", "{}", '{"gpu_data": 1}', '[{"gpu": 0, "vram": null, "asic": "N/A"}]']
)
def test_odd_answers_of_amd_tools_are_no_gpus(text: str) -> None:
    assert parse_amd_smi(text, text) == []
    assert parse_rocm_smi(text) == []


def test_rocm_smi() -> None:
    card = {
        "Card Series": "Radeon RX 7900 XTX",
        "VRAM Total Memory (B)": "25753026560",
        "VRAM Total Used Memory (B)": "1048576000",
    }
    (gpu,) = parse_rocm_smi(json.dumps({"card0": card, "system": {"Driver version": "6.7.0"}}))
    assert gpu == Gpu(name="Radeon RX 7900 XTX", total=25753026560, free=25753026560 - 1048576000, vendor="AMD")
    assert gpu.row is TABLE["RX 7900 XTX"]
    assert (
        parse_rocm_smi(json.dumps({"card0": {"Card series": "X", "VRAM Total Memory (B)": 8 * GIB}}))[0].free == 8 * GIB
    )


def test_sysctl_of_a_mac() -> None:
    text = f"machdep.cpu.brand_string: Apple M2 Max\nhw.memsize: {64 * GIB}\niogpu.wired_limit_mb: 0\n"
    (gpu,) = parse_sysctl(text, available=40 * GIB)
    assert gpu == Gpu(name="Apple M2 Max 64GB", total=48 * GIB, free=40 * GIB, vendor="Apple")
    assert gpu.row is TABLE["M2 Max 64GB"]
    (raised,) = parse_sysctl(text.replace("wired_limit_mb: 0", "wired_limit_mb: 57344"), available=60 * GIB)
    assert (raised.total, raised.row) == (56 * GIB, TABLE["M2 Max 64GB"])
    assert parse_sysctl("machdep.cpu.brand_string: Intel(R) Core(TM) i9\nhw.memsize: 1\n", available=1) == []
    assert parse_sysctl("", available=1) == []


def test_the_default_share_of_unified_memory() -> None:
    assert working_set(32 * GIB) == pytest.approx(21.33 * GIB, rel=1e-3)  # 21845 MiB, as Metal prints it
    assert working_set(36 * GIB) == 27 * GIB
    assert working_set(128 * GIB) == 96 * GIB


@pytest.mark.parametrize(
    ("name", "mib", "row"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, None),
        ("NVIDIA GeForce RTX 4090", 49140, None),  # a card with other memory soldered on
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, None),
        ("NVIDIA GeForce RTX 3060", 12288, "RTX 3060 12GB"),
        ("NVIDIA A100-SXM4-40GB", 40960, "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", 81559, "H100"),
        ("NVIDIA B200", 183359, "B200"),
        ("Tesla V100-SXM2-32GB", 32768, "V100-32GB"),
    ],
)
def test_a_driver_is_matched_by_name_and_memory(name: str, mib: int, row: str | None) -> None:
    found = identify(name, mib * MIB)
    assert (found.name if found else None) == row


def test_detect() -> None:
    found = detect()
    assert found.total == psutil.virtual_memory().total
    assert 0 < found.usable <= found.total
    gpus = machine(Gpu(name="NVIDIA H200", total=143771 * MIB, free=1)).to_dict()["gpus"]
    assert gpus == [{"name": "NVIDIA H200", "total": 143771 * MIB, "free": 1, "vendor": "NVIDIA", "row": "H200"}]


def test_cgroup_limit(tmp_path) -> None:
    assert cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert cgroup_limit(tmp_path) == 1000


@pytest.mark.parametrize(
    ("gpu", "size", "method", "dtype"),
    [
        ("GTX 1080 Ti", "8-12 GB", "qlora", "float16"),
        ("RTX 3060 12GB", "8-12 GB", "qlora", "bfloat16"),
        ("T4", "16 GB", "qlora", "float16"),
        ("4080", "16 GB", "qlora", "bfloat16"),
        ("L4", "24 GB", "qlora", "bfloat16"),
        ("RTX 5090", "32 GB", "qlora", "bfloat16"),
        ("V100-32GB", "32 GB", "qlora", "float16"),
        ("A100-40GB", "40-64 GB", "qlora", "bfloat16"),
        ("L40S", "40-64 GB", "qlora", "bfloat16"),
        ("H100", "80 GB", "lora", "bfloat16"),
        ("RTX PRO 6000", "96 GB", "lora", "bfloat16"),
        ("H200", "141 GB and more", "lora", "bfloat16"),
        ("GH200 144GB", "141 GB and more", "lora", "bfloat16"),
        ("M4 Max 128GB", "96 GB", "lora", "bfloat16"),
    ],
)
def test_classes(gpu: str, size: str, method: str, dtype: str) -> None:
    advice = advise(gpu)
    assert (advice.memory_class, advice.preset.method, advice.preset.dtype) == (size, method, dtype)
    assert (advice.preset.quantization == "nf4") == (method == "qlora")
    assert advice.kind == ("Apple" if gpu.startswith("M4") else "one GPU")
    assert advice.candidates == ()


@pytest.mark.parametrize("row", TABLE.values(), ids=list(TABLE))
def test_every_row_has_a_class_and_classes_rise(row) -> None:
    assert advise(row).budget == row.usable
    least = [c.least for c in CLASSES]
    assert least == sorted(set(least))
    assert least[0] == 0


def test_what_fits_is_what_the_estimate_says() -> None:
    configs = known_models()
    name = "allenai/OLMoE-1B-7B-0924"
    (candidate,) = advise("RTX 4090", configs={name: configs[name]}, baseline=1000).candidates
    spec = RunSpec(
        config=configs[name],
        method=candidate.method,
        dtype="bfloat16",
        quantise_experts=candidate.method == "qlora",
        expert_lora="grouped",
        sequences=2,
        length=2048,
        optimizer="paged_adamw_8bit",
        checkpointing=True,
        baseline=1000,
    )
    assert candidate.peak == make_estimate(spec).peak
    assert candidate.fits is (candidate.peak <= TABLE["RTX 4090"].usable) is True
    (stock,) = advise("RTX 4090", configs={name: configs[name]}, stock=True).candidates
    assert stock.peak >= candidate.peak - 1000


def test_candidates_follow_the_estimator() -> None:
    class Fixed:
        def __init__(self, peak: int) -> None:
            self.peak = peak

    def by_method(**peaks: int):
        def estimator(spec: RunSpec) -> Fixed:
            if spec.method not in peaks:
                raise MemprofError(f"{spec.method}: not covered")
            return Fixed(peaks[spec.method] * GIB)

        return estimator

    def candidate(**peaks: int):
        return advise("RTX 4090", configs={"m": {"model_type": "gpt_oss"}}, estimator=by_method(**peaks)).candidates[0]

    assert (candidate(full=99, lora=20, qlora=10).method, candidate(full=99, lora=20, qlora=10).fits) == ("lora", True)
    none = candidate(full=99, lora=40, qlora=30)
    assert (none.method, none.peak, none.fits, none.attention) == ("qlora", 30 * GIB, False, "eager")
    part = candidate(full=99, lora=40)
    assert (part.method, part.fits, part.reason) == ("lora", None, "qlora: not covered")
    assert (candidate().fits, candidate().peak) == (None, None)


def test_advice_for_machines() -> None:
    none = advise(machine())
    assert (none.kind, none.budget, none.preset.dtype, none.parallel) == ("no GPU", 60 * GIB, "float32", None)
    card = Gpu(name="NVIDIA GeForce RTX 4090", total=24564 * MIB, free=24000 * MIB)
    two = advise(machine(card, replace(card, free=20 * GIB)))
    assert (two.kind, two.devices, two.memory_class, two.budget) == ("many GPUs", 2, "24 GB", 20 * GIB)
    assert "ZeRO-3" in (two.parallel or "")
    assert advise(machine(replace(card, free=24564 * MIB))).budget == TABLE["RTX 4090"].usable
    unknown = advise(machine(Gpu(name="Unheard-of", total=48 * GIB, free=47 * GIB)))
    assert unknown.memory_class == "40-64 GB"
    assert "not in the table" in unknown.notes[0]
    mac = advise(machine(Gpu(name="Apple M4 16GB", total=10 * GIB, free=9 * GIB, vendor="Apple")))
    assert (mac.kind, mac.preset.micro_batch_tokens) == ("Apple", 1024)
    assert any("7.5" in note for note in advise("GTX 1080 Ti").notes)
    assert any("maker" in note for note in advise("MI300X").notes)


def test_known_models_are_all_estimated() -> None:
    advice = advise("B300", configs=known_models())
    assert len(advice.candidates) == 9
    assert [c.model for c in advice.candidates if c.fits is None] == []


def test_command(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(known_models()["mistralai/Mixtral-8x7B-v0.1"]))
    text = invoke("--gpu", "rtx 4090", "--model", str(tmp_path))
    assert "23.52 GiB usable (measured: torch)" in text
    assert "24 GB" in text
    assert "no, 1." in text
    assert "PEFT builds" in invoke("--gpu", "rtx 4090", "--stock")
    here = invoke()
    assert "free" in here
    assert "start from: method" in here
    table = invoke("--all")
    assert all(name in table for name in TABLE)
    for output in (text, here, table):
        assert max(len(line) for line in output.splitlines()) <= 80
    assert "say which" in invoke("--gpu", "A100", code=2)


def test_command_as_json() -> None:
    values = json.loads(invoke("--json"))
    assert values["schema"] == "moe-memprof/hardware@1"
    assert {"total", "available", "limit", "cpus", "gpus", "usable", "table", "advice", "gpu"} == set(values) - {
        "schema"
    }
    assert values["table"]["H100"] == 80
    values = json.loads(invoke("--gpu", "mi300x", "--all", "--json"))
    assert values["gpu"]["supports"]["grouped_mm"] is None
    assert len(values["rows"]) == len(TABLE)
    assert values["advice"]["budget"] == TABLE["MI300X"].usable


def test_torch_is_not_imported() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom moe_memprof.cli import main\n"
        "assert CliRunner().invoke(main, ['hardware', '--gpu', 'T4']).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
