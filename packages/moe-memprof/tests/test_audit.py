"""The audit without torch: numbers by hand, every finding, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from moe_memprof import MemprofError
from moe_memprof.architectures.registry import describe
from moe_memprof.audit.checking import audit_model
from moe_memprof.audit.layout import layout_of
from moe_memprof.audit.matching import check
from moe_memprof.audit.peft_targets import resolve_targets
from moe_memprof.audit.quantised import Loading, packed_bytes
from moe_memprof.audit.rendering import render_audit
from moe_memprof.audit.request import LoraRequest, read_adapter_config
from moe_memprof.audit.result import Audit
from moe_memprof.audit.versions import CHECKED, Stack, resolve_stack
from moe_memprof.cli import main
from published import MIXTRAL_8X7B, OLMOE_1B_7B, QWEN3_30B_A3B

GIB = 2**30
MIXTRAL = {**MIXTRAL_8X7B, "dtype": "bfloat16"}
QWEN3 = {**QWEN3_30B_A3B, "dtype": "bfloat16"}
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 1000, "dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
    "v_head_dim": 32, "n_group": 1, "topk_group": 1, "vocab_size": 1000, "dtype": "bfloat16",
}  # fmt: skip
MXFP4 = {**GPT_OSS, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
FP8 = {**DEEPSEEK, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
FOUR = Loading(bits=4)


def stack(**versions: str) -> Stack:
    return resolve_stack(**{**CHECKED, **versions})


def names(*targets: str, **values: Any) -> LoraRequest:
    return LoraRequest(target_modules=frozenset(targets), **values)


ATTENTION = names("q_proj", "o_proj")
ALL = LoraRequest(target_modules="all-linear")


def rules(audit: Audit) -> dict[str, str]:
    return {f.rule: f.severity for f in audit.findings}


def test_mixtral_in_4_bits_by_hand() -> None:
    audit = audit_model(MIXTRAL, loading=FOUR, lora=ATTENTION, stack=stack())
    experts = 32 * 8 * 3 * 4096 * 14336
    attention = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096)
    row = {r.role: r for r in audit.rows}
    assert row["routed expert"].parameters == experts
    assert row["routed expert"].held == 2 * experts == 84 * GIB
    # half a byte, a float32 scale for every 64, and 64 bytes of code table for each of the two tensors of a layer
    assert row["routed expert"].expected == experts // 2 + experts // 64 * 4 + 64 * 64
    assert row["attention"].held == row["attention"].expected == attention // 2 + attention // 64 * 4 + 4 * 32 * 64
    assert round(audit.held / GIB, 2) == 85.19
    assert round(audit.expected / GIB, 2) == 24.82
    # everything but the packed attention doubles
    assert audit.prepared == 2 * audit.held - row["attention"].held
    finding = audit.findings[0]
    assert (finding.rule, finding.severity) == ("experts-unquantised", "error")
    assert finding.cost == row["routed expert"].held - row["routed expert"].expected
    assert finding.where == (
        "model.layers.*.mlp.experts.gate_up_proj (32)",
        "model.layers.*.mlp.experts.down_proj (32)",
    )
    assert not audit.ok


def test_mixtral_in_4_bits_with_transformers_4() -> None:
    audit = audit_model(MIXTRAL, loading=replace(FOUR, dtype="bfloat16"), stack=stack(transformers="4.57.6"))
    row = {r.role: r for r in audit.rows}
    assert row["routed expert"].quantised == row["router"].quantised == 1
    assert round(audit.held / GIB, 2) == 24.82
    assert rules(audit) == {"router-quantised": "warning", "compute-dtype": "note"}


@pytest.mark.parametrize(
    ("shape", "method", "options", "expected"),
    [
        ((64, 128), "4bit", {}, 4096 + 128 * 4 + 64),
        ((64, 128), "4bit", {"double_quant": True}, 4096 + 128 + 4 + 4 + 64 + 1024),
        ((64, 300), "4bit", {"double_quant": True}, 9600 + 300 + 2 * 4 + 4 + 64 + 1024),
        ((3, 5), "4bit", {}, 8 + 4 + 64),
        ((64, 128), "8bit", {}, 8192 + 64 * 4),
        ((2, 64, 128), "mxfp4", {}, 8192 + 512),
        ((2, 200, 130), "fp8", {"config": {"weight_block_size": [128, 128]}}, 52000 + 2 * 2 * 2 * 4),
        ((200, 130), "fp8", {}, 26000 + 4),
    ],
)
def test_packed_bytes(shape: tuple[int, ...], method: Any, options: dict[str, Any], expected: int) -> None:
    assert packed_bytes(shape, method, **options) == expected


FINDINGS = {
    "load-refused": (MXFP4, {"loading": FOUR}, {}, "error"),
    "experts-unquantised": (QWEN3, {"loading": Loading(bits=8)}, {}, "error"),
    "router-quantised": (OLMOE_1B_7B, {"loading": FOUR}, {"transformers": "4.57.6"}, "warning"),
    "head-quantised": (MIXTRAL, {"loading": replace(FOUR, skip_modules=("gate",))}, {}, "warning"),
    "linear-unquantised": (MIXTRAL, {"loading": replace(FOUR, skip_modules=("q_proj", "lm_head"))}, {}, "note"),
    "kbit-upcast": (MIXTRAL, {"loading": FOUR, "lora": ATTENTION}, {}, "error"),
    "compute-dtype": (MIXTRAL, {"loading": FOUR}, {}, "note"),
    "mxfp4-no-training": (MXFP4, {"lora": ATTENTION}, {}, "error"),
    "falls-back-to-16-bit": (FP8, {"lora": names("q_a_proj")}, {}, "warning"),
    "quantisation-unchecked": ({**MIXTRAL, "quantization_config": {"quant_method": "awq"}}, {}, {}, "warning"),
    "default-dtype": (MIXTRAL, {}, {"transformers": "4.57.6"}, "error"),
    "big-vocabulary": (QWEN3, {"lora": ATTENTION}, {}, "note"),
    "peft-refuses": (MIXTRAL, {"lora": names("w1", "w2")}, {}, "error"),
    "experts-unadapted": (GPT_OSS, {"lora": ALL}, {}, "error"),
    "router-adapted": (MIXTRAL, {"lora": ALL}, {}, "warning"),
    "conversion-drops": (DEEPSEEK, {"lora": names("o_proj", "gate_proj", "up_proj", "down_proj")}, {}, "error"),
    "conversion-widens": (MIXTRAL, {"lora": LoraRequest(target_modules=r".*\.0\.self_attn\.o_proj")}, {}, "error"),
    "rank-doubled": (MIXTRAL, {"lora": names("w1", "w2", "w3")}, {}, "note"),
    "layers-ignored": (MIXTRAL, {"lora": names("w1", "w2", "w3", layers_to_transform=(0,))}, {}, "error"),
    "exclusion-ignored": (MIXTRAL, {"lora": LoraRequest(target_modules="all-linear", exclude_modules=frozenset({"gate"}))}, {}, "error"),
    "packed-parameter": (
        MIXTRAL,
        {"loading": FOUR, "lora": LoraRequest(target_parameters=frozenset({"q_proj.weight"}), target_modules=frozenset())},
        {},
        "error",
    ),
    "fp8-parameter": (FP8, {"lora": LoraRequest(target_parameters=frozenset({"experts.down_proj"}))}, {}, "warning"),
    "delta-materialised": (MIXTRAL, {"lora": LoraRequest(target_parameters=frozenset({"experts.down_proj"}))}, {}, "warning"),
    "saved-copies": (
        {**OLMOE_1B_7B, "tie_word_embeddings": True},
        {"lora": names("o_proj", modules_to_save=("lm_head",))},
        {},
        "warning",
    ),
    "adapter-size": (MIXTRAL, {"lora": ATTENTION}, {}, "note"),
    "matches-nothing": (MIXTRAL, {"lora": names("o_proj", "gate_proj")}, {}, "warning"),
}  # fmt: skip


@pytest.mark.parametrize("rule", FINDINGS)
def test_every_finding(rule: str) -> None:
    config, arguments, versions, severity = FINDINGS[rule]
    audit = audit_model(config, stack=stack(**versions), **arguments)
    assert rules(audit)[rule] == severity
    finding = next(f for f in audit.findings if f.rule == rule)
    assert finding.what
    assert finding.mend or severity != "error"


def test_costs_by_hand() -> None:
    def cost(rule: str) -> int | None:
        config, arguments, versions, _ = FINDINGS[rule]
        audit = audit_model(config, stack=stack(**versions), **arguments)
        return next(f.cost for f in audit.findings if f.rule == rule)

    assert cost("default-dtype") == 46_702_792_704 * 2
    assert cost("delta-materialised") == 32 * 8 * 4096 * 14336 * 2
    assert cost("big-vocabulary") == 151936 * 14 * 2048
    assert cost("mxfp4-no-training") == sum(n * 2 - n // 2 - n // 32 for n in (2 * 4 * 512 * 256, 2 * 4 * 256 * 256))
    # rank 16, and A and B over q and o of 4096 each way
    assert cost("adapter-size") == 32 * 2 * 16 * 8192 * 16
    assert cost("saved-copies") == 50304 * 2048 * (2 + 12)


@pytest.mark.parametrize(
    ("config", "lora", "versions", "words"),
    [
        (MIXTRAL, names("w1", "o_proj"), {}, "w1 without w3"),
        (MIXTRAL, LoraRequest(), {}, "defaults are dropped"),
        (GPT_OSS, LoraRequest(), {}, "no default target_modules"),
        (MIXTRAL, names("w1", "w2", "w3", dropout=0.05), {}, "lora_dropout=0.05"),
        (MIXTRAL, names("self_attn"), {}, "no nn.Linear"),
        (MIXTRAL, names("nothing"), {}, "nothing in the model matches"),
        (MIXTRAL, names("o_proj", exclude_modules=frozenset({"o_proj"})), {}, "excluded"),
        (MIXTRAL, ALL, {"peft": "0.19.1"}, "letters"),
        (MIXTRAL, LoraRequest(target_parameters=frozenset({"experts.down_proj"})), {"peft": "0.16.0"}, "0.17"),
        (MIXTRAL, LoraRequest(target_modules="all-linear", layers_to_transform=(1,)), {}, "layers_to_transform"),
        (MIXTRAL, names("o_proj", layers_pattern=("layers",)), {}, "without layers_to_transform"),
        (MIXTRAL, LoraRequest(target_parameters=frozenset({"norm.weight"})), {}, "1 dimensions"),
        (MIXTRAL, names("o_proj", target_parameters=frozenset({"o_proj.weight"})), {}, "and its module"),
    ],
)
def test_why_peft_refuses(config: dict[str, Any], lora: LoraRequest, versions: dict[str, str], words: str) -> None:
    audit = audit_model(config, lora=lora, stack=stack(**versions))
    finding = next(f for f in audit.findings if f.rule == "peft-refuses")
    assert words in finding.what
    assert audit.adapter_parameters == 0
    assert not audit.adapted_modules


def test_what_changed_with_transformers_5_and_peft() -> None:
    """The same request reaches the experts as modules, not at all, or as parameters."""
    request = names("q_proj", "w1", "w2", "w3")
    modules = audit_model(MIXTRAL, lora=request, stack=stack(transformers="4.57.6", peft="0.17.1"))
    assert len(modules.adapted_modules) == 32 + 32 * 8 * 3
    assert not modules.adapted_parameters
    neither = audit_model(MIXTRAL, lora=request, stack=stack(peft="0.18.0"))
    assert (len(neither.adapted_modules), neither.adapted_parameters) == (32, ())
    assert rules(neither)["experts-unadapted"] == "error"
    parameters = audit_model(MIXTRAL, lora=request, stack=stack())
    assert (len(parameters.adapted_modules), len(parameters.adapted_parameters)) == (32, 64)
    # qwen2_moe was converted until 5.6
    config = {"model_type": "qwen2_moe", "dtype": "bfloat16"}
    experts = names("gate_proj", "up_proj", "down_proj")
    assert audit_model(config, lora=experts, stack=stack(transformers="5.5.0")).adapted_parameters
    assert not audit_model(config, lora=experts, stack=stack()).adapted_parameters


def test_layers_are_read_from_the_wrong_number_by_older_peft() -> None:
    request, key = names("w1", layers_to_transform=(1,)), "model.layers.1.block_sparse_moe.experts.0.w1"
    assert check(request, key, stack=stack())
    assert not check(request, key, stack=stack(peft="0.19.1"))


@pytest.mark.parametrize(
    ("model_type", "router", "expert"),
    [
        ("mixtral", "block_sparse_moe.gate.weight", "block_sparse_moe.experts.0.w1.weight"),
        ("phimoe", "block_sparse_moe.gate.weight", "block_sparse_moe.experts.0.w2.weight"),
        ("olmoe", "mlp.gate.weight", "mlp.experts.0.up_proj.weight"),
        ("jamba", "feed_forward.router.weight", "feed_forward.experts.0.down_proj.weight"),
        ("granitemoe", "block_sparse_moe.router.layer.weight", "block_sparse_moe.input_linear.weight"),
        ("gpt_oss", "mlp.router.weight", "mlp.experts.down_proj"),
    ],
)
def test_names_of_transformers_4(model_type: str, router: str, expert: str) -> None:
    model = describe({"model_type": model_type})
    layout = layout_of(model, stack(transformers="4.57.6"))
    found = {t.name.split(".", 3)[-1] for t in layout.tensors}
    assert {router, expert} <= found
    assert sum(t.elements for t in layout.tensors) == model.parameters


def test_an_unknown_layout_of_transformers_4_is_refused() -> None:
    with pytest.raises(MemprofError, match=r"transformers 4\.57\.6 holds a 'minimax_m2'"):
        audit_model({"model_type": "minimax_m2"}, stack=stack(transformers="4.57.6"))


def test_a_checkpoint_in_4_bits_is_read_from_its_config() -> None:
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True,
              "llm_int8_skip_modules": ["lm_head", "q_proj"]}  # fmt: skip
    audit = audit_model({**MIXTRAL, "quantization_config": stored}, stack=stack())
    assert audit.loading == "load_in_4bit, double quantisation, the rest in bfloat16"
    assert rules(audit)["linear-unquantised"] == "note"


def test_dequantised_checkpoints() -> None:
    packed, plain = (
        audit_model(MXFP4, loading=Loading(dequantize=d), lora=ATTENTION, stack=stack()) for d in (False, True)
    )
    cost = next(f.cost for f in packed.findings if f.rule == "mxfp4-no-training")
    assert plain.held == packed.held + cost
    assert "mxfp4-no-training" not in rules(plain)
    audit = audit_model(FP8, stack=stack())
    row = {r.role: r for r in audit.rows}
    assert row["routed expert"].forms == ("fp8",)
    assert row["router"].quantised == row["embedding"].quantised == 0


def test_resolve_targets_counts_ranks() -> None:
    layout = layout_of(describe(MIXTRAL), stack())
    request = names("o_proj", rank=8, rank_pattern={r"layers\.0\.self_attn\.o_proj": 2})
    assert resolve_targets(request, layout, stack()).elements == (31 * 8 + 2) * 8192


def test_versions() -> None:
    assert stack(transformers="5.0.0rc1").fused_experts
    assert not stack(transformers="4.57.6").fused_experts
    assert resolve_stack(peft="0.18.0").peft.source == "named"
    with pytest.raises(MemprofError, match="--peft 'new': not a version"):
        resolve_stack(peft="new")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LoraRequest(rank=0), "at least 1"),
        (lambda: LoraRequest(dropout=1.5), "below 1"),
        (lambda: Loading(double_quant=True), "--load-in 4bit"),
        (lambda: Loading(dtype="int8"), "not one of"),
        (lambda: audit_model(MIXTRAL, lora=LoraRequest(target_modules="(")), "regex"),
    ],
)
def test_bad_input(make: Any, words: str) -> None:
    with pytest.raises(MemprofError, match=words):
        make()


def test_adapter_config(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({
        "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"], "lora_dropout": 0.1,
        "layers_to_transform": 3, "layers_pattern": "layers", "rank_pattern": {"q_proj": 2}, "modules_to_save": ["lm_head"],
        "exclude_modules": ".*k_proj", "use_dora": True,
    }))  # fmt: skip
    assert read_adapter_config(tmp_path) == LoraRequest(
        target_modules=frozenset({"q_proj"}), target_parameters=frozenset({"experts.down_proj"}), exclude_modules=".*k_proj",
        modules_to_save=("lm_head",), layers_to_transform=(3,), layers_pattern=("layers",), rank=4, rank_pattern={"q_proj": 2},
        dropout=0.1, use_dora=True,
    )  # fmt: skip
    for text, words in (
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"peft_type": "LOHA"}', "only LORA"),
        ('{"r": "many"}', "many"),
        ('{"r": 0}', "at least 1"),
    ):
        path.write_text(text)
        with pytest.raises(MemprofError, match=words):
            read_adapter_config(path)
    with pytest.raises(MemprofError, match="cannot be read"):
        read_adapter_config(tmp_path / "none.json")


@pytest.mark.parametrize("width", [80, 120])
def test_it_reads_well(width: int) -> None:
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system="standard", highlight=False)
    render_audit(console, audit_model(MIXTRAL, loading=FOUR, lora=ALL, stack=stack()))
    text = out.getvalue()
    assert "\x1b[1;31m85.19 GiB of weights where one expects 24.82 GiB: 3.4 times as much" in text
    assert "\x1b[1;31merror\x1b" in text
    plain = StringIO()
    audit = audit_model(MIXTRAL, stack=stack())
    render_audit(Console(file=plain, width=width), audit)
    assert "86.99 GiB of weights, as one expects" in plain.getvalue()
    assert all(len(line) <= width for line in plain.getvalue().splitlines())


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    return tmp_path


VERSIONS = [part for library, number in CHECKED.items() for part in (f"--{library}", number)]


def invoke(*arguments: object, code: int) -> str:
    result = CliRunner().invoke(main, ["audit", *map(str, arguments), *VERSIONS])
    assert result.exit_code == code, result.output
    return result.output


def test_command(mixtral: Path) -> None:
    assert "3.4 times as much" in invoke(mixtral, "--load-in", "4bit", code=1)
    assert "as one expects" in invoke(mixtral, code=0)
    values = json.loads(invoke(mixtral, "--load-in", "4bit", "--target-modules", "q_proj, w1,w2,w3", "--json", code=1))
    assert values["schema"] == "moe-memprof/audit@1"
    assert values["adapted_modules"] == {"model.layers.*.self_attn.q_proj": 32}
    assert values["versions"]["peft"] == {"version": CHECKED["peft"], "source": "named"}
    regex = invoke(mixtral, "--target-modules", r"regex:.*self_attn\.(q|v)_proj", "--rank", 8, "--json", code=0)
    assert json.loads(regex)["adapter_parameters"] == 32 * 8 * (8192 + 4096 + 1024)
    everything = invoke(mixtral, "--target-modules", "all-linear", "--exclude-modules", "k_proj", "--json", code=0)
    assert "model.layers.*.self_attn.k_proj" not in json.loads(everything)["adapted_modules"]
    (mixtral / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["q_proj"]}))
    assert "adapter-size" in invoke(mixtral, "--peft-config", mixtral, code=0)
    invoke(
        mixtral, "--load-in", "4bit", "--skip-modules", "lm_head,q_proj", "--double-quant", "--dtype", "float16", code=1
    )


def test_command_refuses_in_one_line(mixtral: Path) -> None:
    assert "no config.json" in invoke("nowhere", code=2)
    assert "leave the options" in invoke(mixtral, "--peft-config", mixtral, "--rank", 4, code=2)
    assert "--load-in 4bit" in invoke(mixtral, "--double-quant", code=2)


def test_audit_imports_no_torch(mixtral: Path) -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom moe_memprof.cli import main\n"
        f"assert CliRunner().invoke(main, ['audit', {str(mixtral)!r}]).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'peft', 'bitsandbytes', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
