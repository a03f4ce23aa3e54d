"""The callback in transformers' own Trainer, under padding and accumulation."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer, TrainingArguments

from moe_router import RoutingCallback, RoutingTrace
from tiny_models import build, checkpoint


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_token_of_training_is_counted_once(checkpointing: bool, tmp_path) -> None:
    lengths = [5, 9, 3, 7, 4, 8]
    rows = [{"input_ids": torch.arange(3, 3 + n), "labels": torch.arange(3, 3 + n)} for n in lengths]

    def collate(batch):
        width = max(len(r["input_ids"]) for r in batch)

        def pad(x, value):
            return torch.nn.functional.pad(x, (0, width - len(x)), value=value)

        ids = torch.stack([pad(r["input_ids"], 0) for r in batch])
        labels = torch.stack([pad(r["labels"], -100) for r in batch])
        return {"input_ids": ids, "labels": labels, "attention_mask": (ids != 0).long()}

    callback = RoutingCallback(tmp_path / "runs" / "train.trace")
    model = build("mixtral")
    if checkpointing:
        checkpoint(model, reentrant=False)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=2, gradient_accumulation_steps=3, report_to=[],
            logging_steps=1, use_cpu=True, save_strategy="no", disable_tqdm=True,
            eval_strategy="epoch",
        ),
        train_dataset=rows,
        eval_dataset=rows[:2],
        data_collator=collate,
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    trace = RoutingTrace.load(tmp_path / "runs" / "train.trace")
    by_group = dict(zip(trace.groups, trace.tokens_G.tolist(), strict=True))
    assert by_group == {"training": 2 * sum(lengths), "evaluation": 2 * sum(lengths[:2])}
    logged = [entry for entry in trainer.state.log_history if "load_entropy_min" in entry]
    assert logged
    assert all(0 <= entry["load_entropy_min"] <= 1 for entry in logged)
