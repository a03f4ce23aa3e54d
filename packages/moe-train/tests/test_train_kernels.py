"""Triton kernels on the CPU, by Triton's interpreter: products of packed experts, the fused loss; and how one of two ways is chosen."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console

from moe_train import RunConfig, Screen, resume, start
from moe_train.experts.kernels import Choices, Product

KERNELS = pytest.mark.skipif(
    find_spec("nf4_grouped") is None or find_spec("liger_kernel") is None or find_spec("bitsandbytes") is None,
    reason="needs the extras kernels and quantise",
)
FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "moe-router" / "tests")]
PRODUCT = Product("GPU", 8, (128, 64), True, 512)
INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import json, sys
import torch
torch.manual_seed(0)
"""
PACKED = (
    INTERPRETED
    + """
import nf4_grouped
# The interpreter replaces what is looked up in triton's own module; this name was bound before.
nf4_grouped._TL_GATHER = lambda *a: nf4_grouped.tl.gather(*a)
from moe_train.experts.kernels import packed_product
from moe_train.experts.stacks import Nf4Stack, nest_scales, quantise_nf4
found = []
for transposed in (False, True):
    for nested in (False, True):
        packed, scales = quantise_nf4(torch.randn(5, 128, 192))
        codes, levels = nest_scales(scales) if nested else (scales, None)
        stack = Nf4Stack(packed, codes, transposed, levels)
        whole = stack.whole(torch.float32)
        spans = [(0, 0, 7), (2, 7, 8), (4, 8, 30)]  # rows 30 to 32 belong to no expert
        for out in (True, False):
            x = torch.randn(33, stack.in_features if out else stack.out_features).bfloat16()
            y = packed_product(x, stack, spans, out=out).float()
            wanted = torch.zeros(33, stack.out_features if out else stack.in_features)
            for e, i, j in spans:
                wanted[i:j] = x[i:j].float() @ (whole[e].T if out else whole[e])
            assert y[30:].abs().max() == 0
            found.append(float((y - wanted).norm() / wanted.norm()))
        empty = packed_product(x, stack, [], out=False)
        assert empty.shape == (33, stack.in_features) and not empty.any()
print(json.dumps(found))
"""
)
LOSS = (
    INTERPRETED
    + """
sys.path[:0] = sys.argv[1:3]
from types import SimpleNamespace
import tiny_models
from test_train_loss import batch_of
from moe_train.loss import After, after_head, completion_loss, loss_of
found = []
for head_trains in (True, False):
    model = tiny_models.build("mixtral", vocab_size=97)
    model.lm_head.weight.requires_grad_(head_trains)
    config = SimpleNamespace(training=SimpleNamespace(loss="liger"))
    loaded = SimpleNamespace(model=model, after=after_head(model))
    after = loss_of(config, loaded)
    assert after == After(fused=True)
    batch = batch_of([19, 12], 97)
    both = []
    for way in (after, After()):
        model.zero_grad()
        loss = completion_loss(model, batch, after=way)
        (loss * 0.25).backward()
        both.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(both[0]) == len(both[1])
    found.append(max(float((a - b).norm() / (b.norm() + 1e-9)) for a, b in zip(*both)))
batch.labels_BS[:] = -100
assert float(completion_loss(model, batch, after=After(fused=True)).detach()) == 0.0
print(json.dumps(found))
"""
)
PLAN = (
    INTERPRETED
    + """
sys.path[:0] = sys.argv[1:3]
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM
from test_train_loss import batch_of
from moe_memprof import RunSpec, estimate
from moe_memprof.measure import measure_step
from moe_train.loss import After, completion_loss
held = ("weights", "LoRA", "optimizer", "gradients")
found = []
for dtype in ("float32", "bfloat16"):
    config = MixtralConfig(
        vocab_size=32_000, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        num_local_experts=4, num_experts_per_tok=2, head_dim=32,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = get_peft_model(MixtralForCausalLM(config).to(getattr(torch, dtype)), lora)
    batch = batch_of([1024, 1024], 32_000)
    measured = measure_step(lambda: completion_loss(model, batch, after=After(fused=True)).backward()).peak
    spec = RunSpec(
        config=config.to_dict(), method="lora", dtype=dtype, device="cpu", lora_rank=4, lora_experts=False, sequences=2, length=1024,
        loss="liger", loss_share=batch.completion_tokens / 2048,
    )
    planned = sum(part.bytes for part in estimate(spec).phase("step").parts if not part.name.startswith(held))
    found.append(planned / measured - 1)
print(json.dumps(found))
"""
)


def run(source: str, *arguments: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


@KERNELS
def test_packed_products_are_those_of_the_dequantised_weights() -> None:
    """Along and across the stored matrices, with and without double quantisation: equal to the rounding of bfloat16."""
    found = run(PACKED)
    assert len(found) == 8
    assert max(found) < 2**-7


@KERNELS
def test_the_fused_loss_and_its_gradients_are_those_in_chunks() -> None:
    assert max(run(LOSS, *FOLDERS)) < 1e-5


@KERNELS
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_plan_of_the_fused_loss_is_near_what_it_takes() -> None:
    assert max(map(abs, run(PLAN, *FOLDERS))) < 0.05


def test_the_faster_way_is_taken_and_remembered() -> None:
    choices, timed = Choices(), list[str]()
    cost = {"dequantise": 3.0, "packed": 2.0}

    def time_ms(do: object) -> float:
        name = do()  # type: ignore[operator]
        timed.append(name)
        return cost[name]

    ways = {name: (lambda name=name: name) for name in cost}
    assert choices.way(PRODUCT, ways, time_ms) == "packed"
    assert timed == ["dequantise"] * 3 + ["packed"] * 3
    cost["packed"] = 9.0
    assert choices.way(PRODUCT, ways, time_ms) == "packed"
    assert len(timed) == 6
    assert choices.way(Product("GPU", 8, (128, 64), True, 1024), ways, time_ms) == "dequantise"


def test_what_was_measured_is_taken_up_again() -> None:
    choices = Choices()
    choices.way(PRODUCT, {"dequantise": lambda: 3.0, "packed": lambda: 2.0}, lambda do: float(do()))  # type: ignore[arg-type]
    values = json.loads(json.dumps(choices.to_dict()))
    assert values["schema"] == "moe-train/kernels@1"
    again = Choices()
    again.take(values)
    assert again.measured == choices.measured

    def must_not_run() -> None:
        raise AssertionError

    assert again.way(PRODUCT, {"dequantise": must_not_run, "packed": must_not_run}, lambda _: 0.0) == "packed"


def test_a_way_that_does_not_run_is_left_and_the_reason_kept() -> None:
    def refuse() -> None:
        raise ValueError("needs sm_80\nor newer")

    def too_large() -> None:
        raise torch.OutOfMemoryError

    choices = Choices()
    assert choices.way(PRODUCT, {"dequantise": lambda: None, "packed": refuse}, lambda _: 1.0) == "dequantise"
    assert choices.measured[PRODUCT].not_packed == "ValueError: needs sm_80 or newer"
    choices = Choices()
    assert choices.way(PRODUCT, {"dequantise": too_large, "packed": lambda: None}, lambda _: 1.0) == "packed"
    with pytest.raises(ValueError, match="sm_80"):
        Choices().way(PRODUCT, {"dequantise": refuse, "packed": lambda: None}, lambda _: 1.0)


@pytest.mark.slow
def test_a_run_keeps_what_was_measured_and_goes_by_it_again(
    tiny_model: Path, config_for: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = Choices()
    choices.way(PRODUCT, {"dequantise": lambda: 3.0, "packed": lambda: 2.0}, lambda do: float(do()))  # type: ignore[arg-type]
    monkeypatch.setattr("moe_train.workflow.CHOICES", choices)
    screen = Screen(Console(file=io.StringIO()))
    run = start(config_for(f"model={tiny_model}", "training.steps=2", "training.checkpoint_every=1"), screen).run
    assert json.loads((run / "kernels.json").read_text()) == json.loads(json.dumps(choices.to_dict()))
    again = Choices()
    monkeypatch.setattr("moe_train.workflow.CHOICES", again)
    (run / "eval" / "losses-tuned.json").unlink()
    resume(run, screen)
    assert again.measured == choices.measured
