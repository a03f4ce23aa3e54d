"""What a run's configuration does without a word: made with stock transformers, found in the configuration."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from moe_router.doctor import runs
from moe_router.doctor.findings import Patient
from tiny_models import build


@pytest.fixture
def patient() -> Patient:
    ids = torch.arange(3, 27).reshape(2, 12)
    return Patient(model=build("olmoe"), batch={"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def arguments(folder, **changes) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=4, report_to=[], logging_steps=1, use_cpu=True,
        save_strategy="no", disable_tqdm=True, learning_rate=1e-3, **changes,
    )  # fmt: skip


ROWS = [{"input_ids": torch.arange(3, 12), "labels": torch.arange(3, 12)} for _ in range(16)]


@pytest.mark.filterwarnings("ignore")
def test_a_restart_with_trained_weights(tmp_path, patient) -> None:
    """The third step of four rows runs out of memory; the run begins at step 0 with what two steps had learned."""
    model = build("mixtral")
    first = model.lm_head.weight.detach().clone()
    begun: list[tuple[int, float]] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            begun.append((state.global_step, float((model.lm_head.weight - first).abs().max())))

    def out_of_memory(_module, _args, kwargs) -> None:
        if len(kwargs["input_ids"]) == 4 and len(begun) == 3:
            raise RuntimeError("CUDA out of memory.")

    model.register_forward_pre_hook(out_of_memory, with_kwargs=True)
    Trainer(
        model=model, args=arguments(tmp_path, auto_find_batch_size=True), train_dataset=ROWS, callbacks=[Watch()]
    ).train()
    assert [step for step, _ in begun[:4]] == [0, 1, 2, 0]
    assert begun[0][1] == 0
    assert begun[3][1] > 0
    (finding,) = runs.restarts_with_trained_weights(_with(patient, training={"auto_find_batch_size": True}))
    assert finding.severity == "error"
    assert not runs.restarts_with_trained_weights(_with(patient, training={"auto_find_batch_size": False}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden", [True, False])
def test_a_loss_that_is_no_number(hidden: bool, tmp_path, patient) -> None:
    model = build("mixtral")
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    trainer = Trainer(model=model, args=arguments(tmp_path, logging_nan_inf_filter=hidden), train_dataset=ROWS)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    assert any(math.isnan(loss) for loss in logged) != hidden
    assert bool(runs.hidden_nan(_with(patient, logging_nan_inf_filter=hidden))) == hidden


def test_blocks_that_zero3_does_not_know(patient) -> None:
    (finding,) = runs.zero3_leaves(_with(patient, deepspeed={"zero_optimization": {"stage": 3}}))
    assert finding.severity == "error"
    assert "3 MoE blocks of olmoe are OlmoeSparseMoeBlock" in finding.evidence
    assert "set_z3_leaf_modules(model, [OlmoeSparseMoeBlock])" in finding.mend
    assert not runs.zero3_leaves(_with(patient, deepspeed={"zero_optimization": {"stage": 2}}))
    mixtral = Patient(model=build("mixtral"), batch=patient.batch, run={"zero_stage": 3})
    assert not runs.zero3_leaves(mixtral)


def _with(patient: Patient, **run) -> Patient:
    return Patient(model=patient.model, batch=patient.batch, run=run)
