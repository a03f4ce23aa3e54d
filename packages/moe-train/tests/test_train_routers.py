"""Routers that train beside adapters: asked for, proved, at their own rate, kept with the adapter, merged, resumed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny_models
from moe_router import find_moe_layers
from moe_train import RunConfig, Screen, TrainError, load_config, resume, start
from moe_train.adapters import add_lora, find_targets, trainable
from moe_train.assembly import adapted, find_layers, planned_targets, prove_on_batch
from moe_train.config import LoraSection
from moe_train.engines import make_engine
from moe_train.export import export_run
from moe_train.files import read_json
from moe_train.prepare import prepare

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
QUIET = Screen(Console(file=io.StringIO()))


def ready(config: RunConfig) -> tuple[Any, Any, Any, Any, Any]:
    loaded, data = prepare(config)
    layers = find_layers(loaded)
    targets = planned_targets(config, loaded, layers)
    return loaded, data, layers, targets, adapted(config, loaded, targets)


def test_the_proof_counts_them(config_for: Callable[..., RunConfig]) -> None:
    config = config_for("routing.train=true")
    loaded, data, layers, targets, model = ready(config)
    proof = prove_on_batch(config, loaded, data, model, layers, targets)
    assert proof.problems == ()
    row = next(c for c in proof.components if c.component == "router")
    assert (row.matched, row.adapted, row.gradient_nonzero) == (2, 2, 2)
    assert row.trainable_parameters == row.parameters == 2 * 4 * 32


def test_frozen_as_a_rule(config_for: Callable[..., RunConfig]) -> None:
    *_, model = ready(config_for())
    assert not any("gate.weight" in name for name in trainable(model))


@pytest.mark.parametrize(
    "architecture", ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3", "granitemoe", "gemma4"]
)
def test_the_routers_of_other_architectures_get_gradients(architecture: str) -> None:
    base = tiny_models.build(architecture)
    layers = find_moe_layers(base)
    targets = find_targets(base, layers, LoraSection(), train_routers=True)
    model: Any = add_lora(base, targets, LoraSection()).train()
    ids = torch.arange(3, 67).view(2, 32)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for layer in layers:
        copies = [p for n, p in model.named_parameters() if f"{layer.router_name}.modules_to_save" in n]
        assert any(p.grad is not None and bool(p.grad.any()) for p in copies), layer.router_name
    assert [layer.num_experts for layer in find_moe_layers(model)] == [layer.num_experts for layer in layers]


def test_a_rate_of_their_own(config_for: Callable[..., RunConfig]) -> None:
    """Adam's first step is the learning rate times the sign of the gradient."""
    config = config_for(
        "routing.train=true", "routing.learning_rate=0.003", "training.learning_rate=0.0001", "training.warmup=0"
    )
    *_, model = ready(config)
    parameters = trainable(model)
    engine = make_engine(model, parameters, config.training, router_rate=config.routing.learning_rate)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    for p in parameters.values():
        p.grad = torch.randn(p.shape, generator=generator)
    engine.step(config.training.learning_rate)
    for name, p in parameters.items():
        step = float((p.detach() - before[name]).abs().max())
        assert step == pytest.approx(0.003 if "modules_to_save" in name else 0.0001, rel=1e-3), name


def test_in_16_bits_small_steps_add_up(config_for: Callable[..., RunConfig]) -> None:
    """A thousandth of bfloat16's resolution at each step: without a float32 copy nothing would ever move."""
    config = config_for("routing.train=true", "routing.learning_rate=0.00001", "dtype=bfloat16", "training.warmup=0")
    *_, model = ready(config)
    parameters = trainable(model)
    router = next(p for n, p in parameters.items() if "modules_to_save" in n)
    with torch.no_grad():
        router.fill_(1.0)
    engine = make_engine(model, parameters, config.training, router_rate=config.routing.learning_rate)
    for number in range(500):
        router.grad = torch.ones_like(router)
        engine.step(config.training.learning_rate)
        if number == 0:
            assert bool((router == 1).all())
    assert router.dtype == torch.bfloat16
    assert float(router.detach().float().mean()) == pytest.approx(1 - 500 * 1e-5, abs=0.003)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_keeps_merges_and_resumes_them(dtype: str, config_for: Callable[..., RunConfig], tmp_path: Path) -> None:
    overrides = [
        "routing.train=true",
        "routing.learning_rate=0.01",
        "training.learning_rate=0.01",
        f"dtype={dtype}",
        "training.steps=6",
    ]
    config = config_for(*overrides, "training.checkpoint_every=3", "name=whole")
    run = start(config, QUIET).run
    stored = load_file(run / "adapter" / "adapter_model.safetensors")
    kept = [name for name in stored if name.endswith("gate.weight")]
    assert len(kept) == 2
    base = AutoModelForCausalLM.from_pretrained(config.model, dtype=getattr(torch, dtype))
    changed = base.model.layers[0].mlp.gate.weight
    assert not torch.equal(stored[kept[0]].float(), changed.float())
    plain = PeftModel.from_pretrained(base, run / "adapter")
    assert any(torch.equal(p, stored[kept[0]]) for n, p in plain.named_parameters() if "modules_to_save" in n)
    done = export_run(run, tmp_path / "merged", form="merged", dtype="float32")
    assert done.check.kept > 0.999
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged["model.layers.0.block_sparse_moe.gate.weight"].to(stored[kept[0]].dtype), stored[kept[0]])
    again = config_for(*overrides, "training.checkpoint_every=3", "name=again")
    other = start(again, QUIET).run
    for path in ("adapter", "checkpoints/step-6"):
        import shutil

        shutil.rmtree(other / path)
    for path in ("eval/losses-tuned.json", "result.json", "report.html"):
        (other / path).unlink()
    resume(other, QUIET)
    resumed = load_file(other / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(resumed[name], stored[name]) for name in stored)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["routing.learning_rate=0.1"], "the routers are frozen"),
        (["routing.train=true", "training.method=full"], "trains the routers as everything else"),
        (["routing.train=true", "training.deepspeed=x.json"], "does not go with training.deepspeed"),
    ],
)
def test_what_does_not_go_together(overrides: list[str], why: str) -> None:
    with pytest.raises(TrainError, match=why):
        load_config(None, ["data.tasks={change: 10}", *overrides])


def test_a_quantised_base_keeps_dense_routers_that_train(
    blocks_model: Path, config_for: Callable[..., RunConfig]
) -> None:
    run = start(
        config_for(f"model={blocks_model}", "quantisation.weights=nf4", "routing.train=true", "training.steps=4"), QUIET
    ).run
    rows = {row["component"]: row for row in read_json(run / "proof.json")["components"]}
    assert rows["router"]["quantised"] == 0
    assert rows["router"]["gradient_nonzero"] == 2
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["modules_to_save"] == ["mlp.gate"]
