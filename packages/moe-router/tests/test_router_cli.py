"""The command as a user runs it: on a model saved to a folder, from data to trace to comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from moe_router import RouterError, RoutingTrace
from moe_router.cli import main
from tiny_models import build


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build("mixtral").save_pretrained(folder)
    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    records = [
        {"text": "a b c d", "kind": "x"},
        {"prompt": "e f", "completion": "g", "kind": "y"},
        {"messages": [{"role": "user", "content": "h i"}, {"role": "assistant", "content": "j k l"}], "kind": "y"},
    ]
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def printed(*arguments: object, code: int = 0) -> dict:
    """What a command prints as JSON; progress goes to stderr."""
    result = CliRunner().invoke(main, [str(a) for a in (*arguments, "--json")])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_inspect(model_folder) -> None:
    shown = run("inspect", model_folder)
    assert "3 MoE layers" in shown
    assert f"transformers {version('transformers')}: " in shown  # how this release is read
    layers = json.loads(run("inspect", model_folder, "--json"))["layers"]
    assert all(x["tested"] and x["scoring"] == "softmax" for x in layers)
    assert [(x["name"], x["experts"], x["top_k"]) for x in layers] == [
        (f"model.layers.{i}.mlp", 8, 2) for i in range(3)
    ]


def test_inspect_of_a_dense_model(tmp_path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    ).save_pretrained(tmp_path)
    assert "no MoE layer" in run("inspect", tmp_path, code=1)


def test_trace_analyze_diff(model_folder, data_file, tmp_path) -> None:
    one, other = tmp_path / "one.trace", tmp_path / "other.trace"
    output = run("trace", model_folder, data_file, "-o", one, "--by", "kind", "--batch", 2)
    assert "12 tokens" in output
    trace = RoutingTrace.load(one)
    assert (trace.groups, trace.tokens_G.tolist()) == (("x", "y"), [4, 8])
    run("trace", model_folder, data_file, "-o", other, "--by", "kind", "--batch", 1)
    assert (RoutingTrace.load(other).counts_GLE == trace.counts_GLE).all()
    summary = json.loads(run("analyze", one, "--json"))
    assert summary["tokens"] == 12
    assert {"entropy_interval", "gini_interval", "repetition", "next_layer"} <= set(summary["layers"][0])
    assert summary["groups"] == []  # one sequence of x, two of y
    assert any("at least two of each" in why for why in summary["not_told"])
    np.testing.assert_allclose([sum(x["load"]) for x in summary["layers"]], 1, atol=1e-5)
    assert "group" in run("analyze", one)
    assert json.loads(run("diff", one, other, "--json", "--fail-above", 0))["worst"] == 0
    assert "Jensen" in run("diff", one, other)


def test_diff_is_a_gate(model_folder, data_file, tmp_path) -> None:
    """Of two checkpoints, whose routers differ."""
    other = build("mixtral")
    with torch.no_grad():
        other.model.layers[1].mlp.gate.weight.copy_(other.model.layers[1].mlp.gate.weight.flip(0))
    other.save_pretrained(tmp_path / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tuned" / name).write_bytes((model_folder / name).read_bytes())
    for folder, name in ((model_folder, "a"), (tmp_path / "tuned", "b")):
        run("trace", folder, data_file, "-o", tmp_path / name)
    run("diff", tmp_path / "a", tmp_path / "b", "--fail-above", 0.0001, code=1)
    run("diff", tmp_path / "a", tmp_path / "b", "--fail-above", 1)
    layers = printed("diff", model_folder, tmp_path / "tuned", "--data", data_file)["layers"]
    assert layers[0]["flipped_tokens"] == 0
    assert layers[1]["flipped_tokens"] > 0.3
    expected = json.loads(run("diff", tmp_path / "a", tmp_path / "b", "--json"))["layers"]
    assert [x["js_divergence"] for x in layers] == [x["js_divergence"] for x in expected]


def test_diff_of_other_tokens_is_refused(model_folder, data_file, tmp_path) -> None:
    for length in (1, 2048):
        run(
            "trace",
            model_folder,
            data_file,
            "-o",
            tmp_path / f"{length}",
            "--tokens",
            tmp_path / f"{length}.tokens",
            "--max-length",
            length,
        )
    other = tmp_path / "other.jsonl"
    other.write_text(data_file.read_text().replace("a b c d", "a b c e"))
    run("trace", model_folder, other, "-o", tmp_path / "other", "--tokens", tmp_path / "other.tokens")
    for pair in (("1", "2048"), ("1.tokens", "2048.tokens"), ("2048", "other"), ("2048.tokens", "other.tokens")):
        assert "not of the same tokens" in run("diff", *(tmp_path / name for name in pair), code=2)
    assert "--data FILE" in run("diff", model_folder, tmp_path / "1", code=2)


def test_architectures() -> None:
    shown = run("architectures")
    assert "72 architectures, 94 model types" in shown
    assert "jetmoe" in shown
    rows = json.loads(run("architectures", "--json"))["architectures"]
    assert {"name": "llama4", "model_types": ["llama4", "llama4_text"], "adapter": "llama4"}.items() <= next(
        r for r in rows if r["name"] == "llama4"
    ).items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "./nowhere"], "no such folder"),
        (["analyze", "{tmp}/none.trace"], "no such file"),
        (["analyze", "{tmp}/text.trace"], "not a safetensors file"),
        (["trace", "{model}", "{tmp}/none.jsonl", "-o", "{tmp}/t"], "no such file"),
        (["trace", "{model}", "{tmp}/empty.jsonl", "-o", "{tmp}/t"], "holds no record"),
        (["trace", "{model}", "{tmp}/bad.jsonl", "-o", "{tmp}/t"], "bad.jsonl:2: not JSON"),
        (["trace", "{model}", "{tmp}/odd.jsonl", "-o", "{tmp}/t"], "needs text"),
        (["trace", "{model}", "{tmp}/odd.jsonl", "-o", "{tmp}/t", "--by", "kind"], "no field 'kind'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message: str, model_folder, tmp_path) -> None:
    (tmp_path / "text.trace").write_text("hello")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "odd.jsonl").write_text('{"words": "a"}\n')
    filled = [a.format(tmp=tmp_path, model=model_folder) for a in arguments]
    result = CliRunner().invoke(main, filled)
    assert result.exit_code == 2
    assert message in result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert not (tmp_path / "t").exists()


HEADER = {
    "schema": "moe-router/trace@2", "model": "m", "layers": ["a"], "experts_L": [2], "top_k_L": [1], "groups": ["g"], "types": [],
    "metadata": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "not a routing trace"),
        ("{not json", "not a routing trace"),
        ({"schema": 3}, "not a routing trace"),
        ({"schema": "moe-router/trace@2"}, "damaged"),
        ({"schema": "moe-router/trace@1"}, "damaged"),
        (HEADER, "damaged"),
        ({"schema": "moe-router/tokens@1"}, "damaged"),
        ({**HEADER, "schema": "moe-router/tokens@1"}, "damaged"),
        ({"schema": "moe-router/tokens@9"}, "tokens@1 was looked for"),
        ({"schema": "moe-router/trace@9"}, "reads moe-router/trace@2"),
    ],
)
def test_a_malformed_trace_is_one_line_and_code_2(header, message: str, tmp_path) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"x": np.zeros(3)}, tmp_path / "t", metadata={"moe_router": text} if header else None)
    for command in (["analyze", tmp_path / "t"], ["diff", tmp_path / "t", tmp_path / "t"]):
        result = CliRunner().invoke(main, list(map(str, command)))
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_other_bad_input(model_folder, tmp_path) -> None:
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00{")
    (tmp_path / "turns.jsonl").write_text('{"messages": [1]}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    sizes = ("--experts", 4, "--layers", 1, "--top-k", 2)
    for arguments, message in (
        (["trace", model_folder, tmp_path / "binary.jsonl", "-o", tmp_path / "t"], "binary.jsonl: not text in UTF-8"),
        (["trace", model_folder, tmp_path / "turns.jsonl", "-o", tmp_path / "t"], "turns.jsonl:1: each message needs"),
        (["trace", model_folder, tmp_path / "list.jsonl", "-o", "/nowhere/t"], "the folder /nowhere does not exist"),
        (["import", tmp_path / "binary.jsonl", "-o", tmp_path / "t", *sizes], "binary.jsonl: not text in UTF-8"),
        (["import", tmp_path / "list.jsonl", "-o", tmp_path / "t", *sizes], "needs an object with routed_experts"),
        (["import", tmp_path / "list.jsonl", "-o", "/nowhere/t", *sizes], "the folder /nowhere does not exist"),
        (["operations", "classify", tmp_path / "binary.jsonl"], "not UTF-8"),
    ):
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 2, arguments
        assert message in result.stderr.splitlines()[-1]


def test_from_trace_to_report(model_folder, data_file, tmp_path) -> None:
    run(
        "trace",
        model_folder,
        data_file,
        "-o",
        tmp_path / "t",
        "--tokens",
        tmp_path / "full",
        "--weights",
        "--by",
        "kind",
    )
    out = run(
        "analyze", tmp_path / "full", "-o", tmp_path / "r.html", "--figures", tmp_path / "figures", "--format", "svg"
    )
    assert f"wrote {tmp_path / 'r.html'}" in out
    assert "Routing of" in (tmp_path / "r.html").read_text()
    assert "load.svg" in {p.name for p in (tmp_path / "figures").iterdir()}
    sums, full = (json.loads(run("analyze", tmp_path / name, "--json")) for name in ("t", "full"))
    assert [x["load"] for x in sums["layers"]] == [x["load"] for x in full["layers"]]
    rows = json.loads(run("diff", tmp_path / "full", tmp_path / "full", "--json"))["layers"]
    assert all(row["flipped_tokens"] == 0 and row["router_saturation"] == 1 for row in rows)
    assert "tokens flipped" in run("diff", tmp_path / "full", tmp_path / "full")


@pytest.mark.parametrize("types", ["position", "part", "none"])
def test_other_kinds_of_types(types: str, model_folder, data_file, tmp_path) -> None:
    run("trace", model_folder, data_file, "-o", tmp_path / "t", "--types", types)
    trace = RoutingTrace.load(tmp_path / "t")
    assert len(trace.types) == {"position": 4, "part": 2, "none": 0}[types]
    if types == "part":
        prompt, completion = trace.types_FCLE.sum((0, 2, 3)) / (trace.top_k * len(trace.layers))
        assert (prompt, completion) == (4, 8)  # e f, h i; g, j k l, and the text without a prompt


def test_import_of_an_engines_export(tmp_path) -> None:
    (tmp_path / "e.jsonl").write_text('{"routed_experts": [[[0, 1], [2, 3]], [[1, 2], [3, 0]]], "task": "x"}\n')
    sizes = ("--experts", 4, "--layers", 2, "--top-k", 2)
    assert "2 tokens of 1 requests" in run("import", tmp_path / "e.jsonl", "-o", tmp_path / "t", *sizes, "--by", "task")
    assert json.loads(run("analyze", tmp_path / "t", "--json"))["tokens"] == 2
    for content, message in (
        ('{"x": 1}', "e.jsonl:1: needs an object with routed_experts"),
        ("{", "e.jsonl:1: not JSON"),
        ('{"routed_experts": [[[0]]]}', "request 0"),
    ):
        (tmp_path / "e.jsonl").write_text(content)
        result = CliRunner().invoke(
            main, list(map(str, ("import", tmp_path / "e.jsonl", "-o", tmp_path / "u", *sizes)))
        )
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "u").exists()


GOLDEN = Path(__file__).parent / "golden"


def example_trace() -> RoutingTrace:
    counts = np.array([[[3, 1], [2, 2]], [[0, 2], [1, 1]]])
    return RoutingTrace(
        model="golden",
        layers=("a", "b"),
        experts_L=(2, 2),
        top_k_L=(1, 1),
        groups=("x", "y"),
        types=("word", "number"),
        unit_group_U=np.array([0, 1]),
        sequences_U=np.array([2, 1]),
        tokens_U=np.array([4, 2]),
        counts_ULE=counts,
        first_ULE=counts,
        idle_UL=np.zeros((2, 2), int),
        pairs_U=np.array([2, 1]),
        repeats_UL=np.array([[1, 2], [1, 0]]),
        mass_GLE=counts / 2,
        types_FCLE=np.pad(np.array([[[[1, 3], [2, 2]], [[2, 0], [1, 1]]]]), [(0, 31), (0, 0), (0, 0), (0, 0)]),
        coactivation_FLEE=np.zeros((8, 2, 2, 2), int),
        transitions_FLEE=np.pad(np.array([[[[2, 1], [1, 2]]]]), [(0, 7), (0, 0), (0, 0), (0, 0)]),
        metadata={"data": "by hand"},
    )


def test_the_stored_format_of_version_1_still_reads() -> None:
    loaded, expected = RoutingTrace.load(GOLDEN / "trace-1.safetensors"), example_trace()
    for name in ("model", "layers", "experts_L", "top_k_L", "groups", "metadata"):
        assert getattr(loaded, name) == getattr(expected, name)
    for name in ("counts_GLE", "first_GLE", "mass_GLE", "coactivation_LEE", "tokens_G"):
        assert (getattr(loaded, name) == getattr(expected, name)).all()
    assert loaded.sequences_G.tolist() == [0, 0]  # it did not say


def test_the_stored_format_of_version_2_still_reads() -> None:
    loaded, expected = RoutingTrace.load(GOLDEN / "trace-2.safetensors"), example_trace()
    for name, value in vars(expected).items():
        got = getattr(loaded, name)
        assert (got == value).all() if isinstance(value, np.ndarray) else got == value, name


def test_newer_version_and_contradictions_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("moe_router.trace.SCHEMA", "moe-router/trace@3")
    example_trace().save(tmp_path / "new.trace")
    monkeypatch.undo()
    with pytest.raises(RouterError, match="trace@3"):
        RoutingTrace.load(tmp_path / "new.trace")
    values = vars(example_trace())
    with pytest.raises(RouterError, match="part of the routing is missing"):
        RoutingTrace(**{**values, "tokens_U": np.array([4, 3])})
    with pytest.raises(RouterError, match="mass_GLE is"):
        RoutingTrace(**{**values, "groups": ("x",)})


def test_traces_of_two_processes_become_one() -> None:
    from moe_router.trace import merge

    one = example_trace()
    both = merge([one, one])
    assert both.groups == one.groups
    assert (both.counts_GLE == 2 * one.counts_GLE).all()
    assert (both.mass_GLE == 2 * one.mass_GLE).all()
    assert (both.transitions_LEE == 2 * one.transitions_LEE).all()
    assert both.sequences_G.tolist() == [4, 2]
    with pytest.raises(RouterError, match="different layers"):
        merge([one, replace(one, layers=("a", "c"))])
