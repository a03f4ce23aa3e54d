"""The training loop against one big batch through stock transformers, and against itself after a stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_router import RoutingBalancer
from moe_train import TrainError
from moe_train.adapters import trainable
from moe_train.assembly import adapted, find_layers, planned_targets
from moe_train.checkpoint import checkpoints
from moe_train.data import collate
from moe_train.files import read_jsonl
from moe_train.prepare import prepare
from moe_train.trainer import FINAL_RATE, Trainer, batch_gradients, learning_rate, record_losses, step_batch


def make_trainer(config: Any, folder: Path, *, balanced: bool = True) -> Trainer:
    torch.manual_seed(config.seed)
    loaded, data = prepare(config)
    model = adapted(config, loaded, planned_targets(config, loaded, find_layers(loaded)))
    balancer = RoutingBalancer(model, load_balancing=0.01, z_loss=1e-3) if balanced else None
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(model, data.train, config, folder, balancer=balancer, pad_id=loaded.pad_id)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.parameters.items()}


def quiet(_: dict[str, Any]) -> None:
    pass


class TestLearningRate:
    def test_shape(self) -> None:
        rates = [learning_rate(s, steps=100, warmup=0.1, peak=2.0) for s in range(100)]
        assert rates[0] == pytest.approx(0.2)
        assert max(rates) == rates[9] == pytest.approx(2.0)
        assert rates[-1] == pytest.approx(2.0 * FINAL_RATE)
        assert rates[10:] == sorted(rates[10:], reverse=True)

    def test_one_step(self) -> None:
        assert learning_rate(0, steps=1, warmup=0.0, peak=1.0) == 1.0


def test_the_loss_is_the_stock_models_loss(config_for: Any, tmp_path: Path) -> None:
    """With one micro-batch and no routing losses, loss and gradient are those of transformers' own `labels=`."""
    trainer = make_trainer(config_for(), tmp_path / "a", balanced=False)
    batch = step_batch(trainer.samples, trainer.config, 0)
    loss, routing = batch_gradients(
        trainer.model, batch, balancer=None, pad_id=trainer.pad_id, micro_batch_tokens=10**6
    )
    got = {n: p.grad.clone() for n, p in trainer.parameters.items() if p.grad is not None}
    trainer.model.zero_grad()
    tensors = collate(batch, pad_id=trainer.pad_id)
    stock = trainer.model(
        input_ids=tensors.input_ids_BS, attention_mask=tensors.attention_mask_BS, labels=tensors.labels_BS
    )
    stock.loss.backward()
    assert routing is None
    assert loss == pytest.approx(float(stock.loss.detach()), rel=1e-6)
    for name, parameter in trainer.parameters.items():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_cutting_a_batch_changes_nothing(config_for: Any, tmp_path: Path, checkpointing: bool) -> None:
    """Loss, routing statistics and gradients of a batch in one piece, in several, and sample by sample."""
    trainer = make_trainer(config_for(f"training.gradient_checkpointing={checkpointing}"), tmp_path / "a")
    trainer.model.train()
    assert trainer.balancer is not None
    state = {"fractions_LE": torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]])}
    results = []
    for budget in (10**6, 60, 1):
        trainer.balancer.load_state_dict(state)  # each step balances against the one before
        trainer.model.zero_grad()
        loss, routing = batch_gradients(
            trainer.model,
            step_batch(trainer.samples, trainer.config, 0),
            balancer=trainer.balancer,
            pad_id=trainer.pad_id,
            micro_batch_tokens=budget,
        )
        assert routing is not None
        grads = {n: p.grad.clone() for n, p in trainer.parameters.items() if p.grad is not None}
        results.append((loss, routing, grads))
    whole = results[0]
    assert whole[2]
    for loss, routing, grads in results[1:]:
        assert loss == pytest.approx(whole[0], rel=1e-5)
        torch.testing.assert_close(routing.load_LE, whole[1].load_LE)
        assert float(routing.z_loss) == pytest.approx(float(whole[1].z_loss), rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, whole[2][name], rtol=2e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_resumed_run_is_the_undisturbed_run(optimizer: str, config_for: Any, tmp_path: Path) -> None:
    config = config_for(f"training.optimizer={optimizer}")
    whole = make_trainer(config, tmp_path / "whole")
    whole.train(on_step=quiet)

    stopped = make_trainer(config, tmp_path / "stopped")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 5:  # after the checkpoint of step 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.train(on_step=stop)
    assert [p.name for p in checkpoints(tmp_path / "stopped" / "checkpoints")] == ["step-2", "step-4"]

    resumed = make_trainer(config, tmp_path / "stopped")
    assert resumed.restore() == 4
    resumed.train(on_step=quiet)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    losses = [[line["loss"] for line in read_jsonl(tmp_path / n / "metrics.jsonl")] for n in ("whole", "stopped")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_training_learns_and_logs(config_for: Any, tmp_path: Path) -> None:
    trainer = make_trainer(
        config_for("training.method=full", "training.steps=30", "training.checkpoint_every=30"), tmp_path / "a"
    )
    lines: list[dict[str, Any]] = []
    trainer.train(on_step=lines.append)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines == read_jsonl(tmp_path / "a" / "metrics.jsonl")
    wanted = {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_s",
        "memory",
        "load_entropy",
        "max_vio",
    }
    assert wanted <= set(lines[0])
    assert len(lines[0]["load_entropy"]) == 2
    assert all(0 <= v <= 1 for v in lines[0]["load_entropy"])
    assert all(math.isfinite(line["load_balancing"]) and line["load_balancing"] >= 1 - 1e-3 for line in lines)


def test_only_the_adapters_change(config_for: Any, tmp_path: Path) -> None:
    trainer = make_trainer(config_for(), tmp_path / "a")
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train(on_step=quiet)
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(trainer.parameters)


def test_a_loss_that_is_not_finite_stops_the_run(config_for: Any, tmp_path: Path) -> None:
    trainer = make_trainer(config_for(), tmp_path / "a")
    with torch.no_grad():
        next(iter(trainer.parameters.values())).fill_(math.inf)
    with pytest.raises(TrainError, match="not finite"):
        trainer.train(on_step=quiet)


def test_a_checkpoint_for_other_weights_is_refused(config_for: Any, tmp_path: Path) -> None:
    trainer = make_trainer(config_for("training.steps=2"), tmp_path / "a")
    trainer.train(on_step=quiet)
    other = make_trainer(config_for("lora.attention=false"), tmp_path / "a")
    with pytest.raises(TrainError, match="trains other weights"):
        other.restore()


def test_nothing_to_train(config_for: Any, tmp_path: Path) -> None:
    loaded, data = prepare(config_for())
    loaded.model.requires_grad_(False)
    assert not trainable(loaded.model)
    with pytest.raises(TrainError, match="no parameter trains"):
        Trainer(loaded.model, data.train, config_for(), tmp_path, balancer=None, pad_id=0)


def test_record_losses_are_those_of_single_records(config_for: Any) -> None:
    loaded, data = prepare(config_for())
    got = record_losses(loaded.model, data.held_out, pad_id=loaded.pad_id, micro_batch_tokens=200)
    assert [r[0] for r in got] == [s.record.id for s in data.held_out]
    for (_, loss, tokens), sample in zip(got, data.held_out, strict=True):
        one = collate([sample], pad_id=loaded.pad_id)
        with torch.no_grad():
            stock = loaded.model(input_ids=one.input_ids_BS, labels=one.labels_BS).loss
        assert loss == pytest.approx(float(stock), rel=1e-4)
        assert tokens == sample.completion_tokens
