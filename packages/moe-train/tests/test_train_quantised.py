"""Quantising while loading: which tensors become what, against quantising by hand; saving and reading again; the memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import tiny_models
from moe_train import TrainError
from moe_train.experts import expert_lora_config
from moe_train.experts.dense import dense_weights
from moe_train.experts.forward import is_dispatched
from moe_train.experts.quantizer import MoeQuantizationConfig, save_quantised
from moe_train.experts.stacks import nest_scales, plain_scales, quantise_int8, quantise_nf4

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|gradient_checkpointing_enable).*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*inputs will be cast from.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
]
# bitsandbytes' product on a CPU wants rows in multiples of 32.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "head_dim": 16,
    "num_key_value_heads": 4,
}
IDS = torch.arange(3, 35).view(2, 16)
MODES: list[dict[str, Any]] = [{"bits": 4}, {"bits": 4, "double_quant": True}, {"bits": 8}]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, tuple[Any, Path]] = {}

    def get(architecture: str) -> tuple[Any, Path]:
        if architecture not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                model = tiny_models.build(architecture, **SIZES).bfloat16().eval()
            folder = tmp_path_factory.mktemp(architecture)
            model.save_pretrained(folder)
            made[architecture] = (model, folder)
        return made[architecture]

    return get


def load(folder: Path, dtype: str = "bfloat16", **mode: Any) -> Any:
    settings = MoeQuantizationConfig(**mode, compute_dtype=dtype)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=settings).eval()


def experts_of(model: Any) -> list[Any]:
    return [m for m in model.modules() if is_dispatched(m)]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "olmoe", "gpt_oss"])
def test_experts_are_those_quantised_by_hand(architecture: str, mode: dict[str, Any], checkpoints: Any) -> None:
    model, folder = checkpoints(architecture)
    quantised = load(folder, **mode)
    for ours, theirs in zip(experts_of(quantised), experts_of(model), strict=True):
        for name in ("gate_up_proj", "down_proj"):
            weight = getattr(theirs, name).detach()
            values, scales = quantise_int8(weight) if mode["bits"] == 8 else quantise_nf4(weight)
            assert torch.equal(getattr(ours, name), values)
            held = getattr(ours, f"{name}_scales")
            if mode.get("double_quant"):
                held = plain_scales(held, getattr(ours, f"{name}_nested"))
                assert float((held - scales).norm() / scales.norm()) < 0.01
            else:
                assert torch.equal(held, scales)
    kept = {n: p for n, p in quantised.named_parameters() if p.dtype == torch.bfloat16}
    original = dict(model.named_parameters())
    for part in ("embed_tokens", "lm_head", ".gate." if architecture != "gpt_oss" else "router"):
        names = [n for n in kept if part in n]
        assert names, part
        assert all(torch.equal(kept[n], original[n]) for n in names)
    assert not any(p.requires_grad for p in quantised.parameters())
    logits, right = quantised(input_ids=IDS).logits.float(), model(input_ids=IDS).logits.float()
    assert float((logits - right).detach().norm() / right.detach().norm()) < (0.4 if mode["bits"] == 4 else 0.03)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_was_quantised_is_saved_and_read_again(mode: dict[str, Any], checkpoints: Any, tmp_path: Path) -> None:
    _, folder = checkpoints("qwen3_moe")
    quantised = load(folder, **mode)
    # Many shards, so that a stack and its scales may stand in different files.
    quantised.save_pretrained(tmp_path / "shards", save_original_format=False, max_shard_size="20KB")
    save_quantised(quantised, tmp_path / "whole")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    for name in ("shards", "whole"):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16)
        before, after = quantised.state_dict(), again.state_dict()
        assert before.keys() == after.keys()
        for key in before:
            assert torch.equal(before[key], after[key]), key
    written = json.loads((tmp_path / "whole" / "config.json").read_text())["quantization_config"]
    assert (written["quant_method"], written["bits"]) == (f"moe_train_{mode['bits']}bit", mode["bits"])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_adapters_train_on_a_quantised_base_and_reload_in_plain_peft_on_the_dequantised_one(
    mode: dict[str, Any], checkpoints: Any, tmp_path: Path
) -> None:
    _, folder = checkpoints("mixtral")
    base = load(folder, "float32", **mode)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
    )  # fmt: skip
    torch.manual_seed(1)
    tuned = get_peft_model(base, expert_lora_config(base, config))
    tuned.train()
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    assert {p.dtype for p in parameters} == {torch.float32}
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(12):
        loss = tuned(input_ids=IDS, labels=IDS).loss
        loss.backward()
        if not losses:
            second = [m.lora_B["default"].weight.grad for m in tuned.modules() if type(m).__name__ == "ParamWrapper"]
            assert all(g is not None and g.any() for g in second)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    tuned.eval()
    tuned.save_pretrained(tmp_path / "adapter")

    # The base as plain transformers would have it: the same numbers in float32.
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    numbers = dict(dense_weights(tuned.get_base_model(), torch.float32))
    assert numbers.keys() == dense.state_dict().keys()
    dense.load_state_dict(numbers)
    plain = PeftModel.from_pretrained(dense, tmp_path / "adapter").eval()
    with torch.no_grad():
        ours, theirs = tuned(input_ids=IDS).logits.float(), plain(input_ids=IDS).logits
    # bitsandbytes multiplies 8-bit linears in integers, rounding their input too.
    assert float((ours - theirs).norm() / theirs.norm()) < (1e-5 if mode["bits"] == 4 else 0.02)


def test_training_after_an_evaluation_reaches_every_adapter(checkpoints: Any) -> None:
    """bitsandbytes' own linears lose their backward pass once they were evaluated on some CPUs."""
    _, folder = checkpoints("mixtral")
    gradients = []
    for evaluate_first in (False, True):
        base = load(folder, bits=4)
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        if evaluate_first:
            model.eval()
            with torch.no_grad():
                model(input_ids=IDS)
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert one.any()
        torch.testing.assert_close(one, other)


def test_double_quantised_scales_come_back_within_a_percent() -> None:
    torch.manual_seed(0)
    scales = torch.rand(3, 700) + 0.5
    codes, nested = nest_scales(scales)
    assert codes.dtype == torch.uint8
    assert nested.shape == (3, 1 + 3)
    assert float((plain_scales(codes, nested) - scales).abs().max()) < 0.01
    for e in range(3):
        assert torch.equal(plain_scales(codes[e : e + 1], nested[e : e + 1])[0], plain_scales(codes, nested)[e])


def test_bad_requests_are_one_line(checkpoints: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="3 bits; there are 4 and 8"):
        MoeQuantizationConfig(bits=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_models.build("mixtral", hidden_size=64, intermediate_size=96).save_pretrained(tmp_path)
    with pytest.raises(TrainError, match="rows of 96 elements do not divide into blocks of 64"):
        load(tmp_path, bits=4)
    assert checkpoints is not None


PEAK = """
import sys, threading, time, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from moe_train.experts.quantizer import MoeQuantizationConfig
import bitsandbytes

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

warm = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, quantization_config=MoeQuantizationConfig(bits=4))
del warm
start = anonymous()
peak, done = 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.0005)

thread = threading.Thread(target=watch)
thread.start()
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.bfloat16, quantization_config=MoeQuantizationConfig(bits=4))
done = True
thread.join()
final = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
print(start, peak, final)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells anonymous memory in /proc alone")
def test_loading_never_holds_a_stack_in_sixteen_bits_beside_the_others(checkpoints: Any, tmp_path: Path) -> None:
    """Anonymous memory while loading stays below the final size and 1.5 of the largest fused tensor."""
    _, small = checkpoints("mixtral")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tiny_models.build(
            "mixtral", hidden_size=512, intermediate_size=1536, num_hidden_layers=6, head_dim=64, num_key_value_heads=8,
            num_attention_heads=8, vocab_size=1024,
        )  # fmt: skip
    model.bfloat16().save_pretrained(tmp_path)
    largest = max(p.numel() * 2 for p in model.parameters())
    # Freed tensors go back to the system at once, as those of a full-size model do (above 32 MiB): glibc would keep these for later.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, str(small), str(tmp_path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    start, peak, final = map(int, out.stdout.split()[-3:])
    assert peak - start < final + 1.5 * largest, (peak - start, final, largest)
    assert peak - start > final  # what is measured is there


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny gpt-oss whose experts are stored as its releases store them: blocks of 32 elements in 4 bits and a scale for each."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("mxfp4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        tiny_models.build("gpt_oss", hidden_size=64, intermediate_size=64, head_dim=16).bfloat16().save_pretrained(
            folder
        )
    generator, stored = torch.Generator().manual_seed(0), {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim == 3:
            experts, inputs, outputs = tensor.shape
            shape = (experts, outputs, inputs // 32, 16)
            stored[f"{name}_blocks"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            stored[f"{name}_scales"] = torch.full(shape[:3], 120, dtype=torch.uint8)
        else:
            stored[name] = tensor
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skipped}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("weights", ["none", "nf4", "int8"])
def test_mxfp4_is_converted_and_said(weights: str, mxfp4: Path) -> None:
    from transformers import Mxfp4Config

    from moe_train.config import QuantisationSection
    from moe_train.model import quantised_loading

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = AutoModelForCausalLM.from_pretrained(
            mxfp4, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
        )
        section = QuantisationSection(weights=weights)
        loading, said = quantised_loading(str(mxfp4), section, device=torch.device("cpu"), dtype=torch.bfloat16)
        model, info = AutoModelForCausalLM.from_pretrained(
            mxfp4, dtype=torch.bfloat16, output_loading_info=True, **loading
        )
    assert said == {"none": "MXFP4 to bfloat16"}.get(weights, f"MXFP4 to {weights}")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for ours, theirs in zip(model.model.layers, dense.model.layers, strict=True):
        for name in ("gate_up_proj", "down_proj"):
            wanted, held = getattr(theirs.mlp.experts, name), getattr(ours.mlp.experts, name)
            assert float(wanted.detach().float().std()) > 0.01
            if weights == "none":
                assert torch.equal(held, wanted)
            elif weights == "nf4":
                packed, scales = quantise_nf4(wanted.detach())
                assert torch.equal(held, packed)
                assert torch.equal(getattr(ours.mlp.experts, f"{name}_scales"), scales)
            else:
                assert torch.equal(held, quantise_int8(wanted.detach())[0])


def test_a_checkpoint_that_is_quantised_otherwise_is_refused(tmp_path: Path, mxfp4: Path) -> None:
    from moe_train.config import QuantisationSection
    from moe_train.model import quantised_loading

    config = json.loads((mxfp4 / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainError, match="quantised already"):
        quantised_loading(
            str(tmp_path), QuantisationSection(weights="nf4"), device=torch.device("cpu"), dtype=torch.bfloat16
        )
