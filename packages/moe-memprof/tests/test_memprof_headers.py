"""Safetensors headers: what is read, what is guessed, and every way in which a file can be broken."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architecture_published import PUBLISHED
from moe_memprof.architectures.headers import INDEX, SINGLE, kind_of, layer_of, read_checkpoint, read_hub, role_of
from moe_memprof.architectures.registry import describe
from moe_memprof.errors import MemprofError

BYTES = {"F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1}


def header(tensors: dict[str, tuple[str, list[int]]]) -> tuple[dict[str, Any], int]:
    """The header of a file with those tensors, and how many bytes they take."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for n in shape:
            size *= n
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return entries, at


def write(path: Path, entries: Any, size: int) -> Path:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    return path


TENSORS = {
    "model.embed_tokens.weight": ("BF16", [10, 4]),
    "model.layers.0.block_sparse_moe.gate.weight": ("F32", [2, 4]),
    "model.layers.0.block_sparse_moe.experts.1.w1.weight": ("BF16", [6, 4]),
}


def test_one_file(tmp_path: Path) -> None:
    found = read_checkpoint(write(tmp_path / SINGLE, *header(TENSORS)))
    assert [(t.name, t.shape, t.dtype) for t in found.tensors] == [
        ("model.embed_tokens.weight", (10, 4), "bfloat16"),
        ("model.layers.0.block_sparse_moe.gate.weight", (2, 4), "float32"),
        ("model.layers.0.block_sparse_moe.experts.1.w1.weight", (6, 4), "bfloat16"),
    ]
    assert found.by_role() == {"embedding": 40, "router": 8, "routed expert": 24}
    assert found.parameters == 72
    assert found.bytes == 80 + 32 + 48
    assert read_checkpoint(tmp_path) == found


def test_several_files_with_an_index(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", *header({"x.weight": ("F8_E4M3", [3])}))
    write(tmp_path / "b.safetensors", *header({"y.weight": ("U8", [5])}))
    unindexed = read_checkpoint(tmp_path)
    write(tmp_path / "left-over.safetensors", *header({"x.weight": ("F32", [3])}))
    with pytest.raises(MemprofError, match=r"is also in a\.safetensors"):
        read_checkpoint(tmp_path)
    index = {"weight_map": {"x.weight": "a.safetensors", "y.weight": "b.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert read_checkpoint(tmp_path) == unindexed == read_checkpoint(tmp_path / INDEX)
    assert unindexed.bytes == 8


def test_torch_writes_what_is_read(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"a": numpy.zeros((2, 3), dtype="float32")}, tmp_path / SINGLE)
    assert [(t.name, t.shape, t.dtype) for t in read_checkpoint(tmp_path).tensors] == [("a", (2, 3), "float32")]


@given(data=st.binary(max_size=64))
def test_any_bytes_give_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("x") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(MemprofError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("entries", "size", "words"),
    [
        (b"{}"[:1], 0, "does not fit"),
        (b"[1]", 0, "not a JSON object"),
        (b"{'a'}", 0, "not JSON"),
        (b"\xff\xfe\xfd", 0, "not JSON"),
        ({"w": 3}, 8, "lacks dtype"),
        ({"w": {"dtype": "F32"}}, 8, "lacks dtype"),
        ({"w": GOOD | {"dtype": 4}}, 8, "no name of a type"),
        ({"w": GOOD | {"shape": [2.0]}}, 8, "no list of whole numbers"),
        ({"w": GOOD | {"shape": [-2]}}, 8, "no list of whole numbers"),
        ({"w": GOOD | {"data_offsets": [0]}}, 8, "not two whole numbers"),
        ({"w": GOOD}, 7, "cut off"),
        ({"w": GOOD | {"data_offsets": [4, 0]}}, 8, "lies at bytes 4 to 0"),
        ({"w": GOOD | {"shape": [3]}}, 8, "does not fill its 8 bytes"),
    ],
)
def test_a_damaged_file(tmp_path: Path, entries: Any, size: int, words: str) -> None:
    with pytest.raises(MemprofError) as caught:
        read_checkpoint(write(tmp_path / SINGLE, entries, size))
    assert words in str(caught.value)
    assert SINGLE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_of_a_later_format_is_taken_as_it_is(tmp_path: Path) -> None:
    entries = {"w": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}
    assert read_checkpoint(write(tmp_path / SINGLE, entries, 3)).tensors[0].dtype == "f6_e2m3"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MemprofError, match="has no safetensors file"):
        read_checkpoint(tmp_path)
    with pytest.raises(MemprofError, match="cannot be read"):
        read_checkpoint(tmp_path / "no.safetensors")
    with pytest.raises(MemprofError, match="cannot be read"):
        read_checkpoint(tmp_path / "no.json")
    for text in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(MemprofError, match="no index of safetensors files"):
            read_checkpoint(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "one.safetensors"}}')
    with pytest.raises(MemprofError, match=r"1 of 1 files that are not beside it, such as one\.safetensors"):
        read_checkpoint(tmp_path)


def test_the_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MemprofError, match=r"pip install 'moe-memprof\[hub\]'"):
        read_hub("mistralai/Mixtral-8x7B-v0.1")


@pytest.mark.parametrize(
    ("name", "role", "layer"),
    [
        ("model.layers.3.block_sparse_moe.experts.7.w1.weight", "routed expert", 3),
        ("model.layers.3.mlp.experts.7.gate_proj.weight_scale_inv", "routed expert", 3),
        ("model.layers.3.mlp.experts.gate_up_proj", "routed expert", 3),
        ("model.layers.3.mlp.experts.gate_up_proj_blocks", "routed expert", 3),
        ("model.layers.3.block_sparse_moe.input_linear.weight", "routed expert", 3),
        ("transformer.blocks.3.ffn.experts.mlp.w1", "routed expert", 3),
        ("encoder.block.3.layer.1.mlp.experts.expert_2.wi.weight", "routed expert", 3),
        ("model.layers.3.block_sparse_moe.gate.weight", "router", 3),
        ("model.layers.3.mlp.gate.e_score_correction_bias", "router", 3),
        ("model.layers.3.mlp.gate.wg.weight", "router", 3),
        ("transformer.blocks.3.ffn.router.layer.weight", "router", 3),
        ("model.layers.3.mlp.shared_expert_gate.weight", "shared expert", 3),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", "shared expert", 3),
        ("model.layers.3.mlp.shared_mlp.up_proj.weight", "shared expert", 3),
        ("model.layers.3.self_attn.gate_proj.weight", "attention", 3),
        ("model.layers.3.self_attn.q_norm.weight", "norm", 3),
        ("transformer.blocks.3.norm_attn_norm.attn.Wqkv.weight", "attention", 3),
        ("transformer.blocks.3.norm_attn_norm.norm_1.weight", "norm", 3),
        ("backbone.layers.3.mixer.in_proj.weight", "attention", 3),
        ("backbone.layers.3.mixer.up_proj.weight", "dense", 3),
        ("backbone.layers.3.mixer.experts.2.up_proj.weight", "routed expert", 3),
        ("model.layers.3.mlp.down_proj.weight", "dense", 3),
        ("transformer.h.3.ln_1.weight", "norm", 3),
        ("lm_head.weight", "embedding", None),
        ("transformer.wte.weight", "embedding", None),
        ("model.vision_tower.encoder.layers.3.mlp.fc1.weight", "other", None),
        ("visual.blocks.3.attn.qkv.weight", "other", None),
        ("mtp.layers.0.mlp.experts.3.up_proj.weight", "routed expert", None),
        ("something", "other", None),
    ],
)
def test_names_of_checkpoints_old_and_new(name: str, role: str, layer: int | None) -> None:
    assert role_of(name) == role
    assert layer_of(name) == layer


@pytest.mark.parametrize("name", PUBLISHED)
def test_guesses_agree_with_the_inventory(name: str) -> None:
    for tensor in describe(PUBLISHED[name][0]).tensors:
        role = role_of(tensor.name)
        assert role == tensor.role, tensor.name
        assert layer_of(tensor.name) == tensor.layer, tensor.name
        if role != "router":
            assert kind_of(tensor.name, tensor.shape, role) == tensor.kind, tensor.name
