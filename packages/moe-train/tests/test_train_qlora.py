"""Whole runs on a quantised base: proof, training, evaluation, resume; and what is refused before anything is loaded."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

from moe_train import RunConfig, Screen, TrainError, load_config, start
from moe_train.files import read_json, read_jsonl
from moe_train.model import embedded_path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*inputs will be cast from.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.mark.parametrize("mode", [("nf4", False), ("nf4", True), ("int8", False)], ids=str)
def test_a_whole_run_on_a_quantised_base(
    mode: tuple[str, bool], blocks_model: Path, config_for: Callable[..., RunConfig]
) -> None:
    weights, double = mode
    config = config_for(
        f"model={blocks_model}", "training.steps=6", "training.learning_rate=0.01", "lora.dropout=0.05", "lora.rslora=true",
        f"quantisation.weights={weights}", f"quantisation.double={str(double).lower()}", "training.gradient_checkpointing=true",
    )  # fmt: skip
    outcome = start(config, Screen(Console(file=io.StringIO())))
    proof = read_json(outcome.run / "proof.json")
    assert proof["holds"]
    rows = {row["component"]: row for row in proof["components"]}
    for component in ("attention", "experts"):
        assert rows[component]["adapted"] == rows[component]["gradient_nonzero"] == rows[component]["matched"] > 0
        assert rows[component]["quantised"] == rows[component]["tensors"]
    assert rows["router"]["quantised"] == rows["embeddings"]["quantised"] == 0
    # 3 weights of 64 x 64 in each of 4 experts of 2 layers: packed, or in bytes; scales apart.
    assert rows["experts"]["parameters"] == 2 * 4 * 3 * 64 * 64
    losses = [line["loss"] for line in read_jsonl(outcome.run / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    base = AutoModelForCausalLM.from_pretrained(blocks_model)
    plain = PeftModel.from_pretrained(base, outcome.run / "adapter")  # plain PEFT reads it, dropout or not
    assert plain is not None
    written = json.loads((outcome.run / "adapter" / "adapter_config.json").read_text())
    assert written["lora_dropout"] == 0


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["quantisation.weights=nf4", "training.method=full"], "quantised weights cannot be trained"),
        (["quantisation.weights=nf4", "lora.expert_products=peft"], "PEFT cannot adapt quantised experts"),
        (["quantisation.double=true"], "goes with quantisation.weights=nf4"),
        (["quantisation.weights=fp4"], "quantisation.weights"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides: list[str], why: str) -> None:
    with pytest.raises(TrainError, match=why):
        load_config(None, ["data.tasks={change: 10}", *overrides])


def test_rows_that_blocks_do_not_divide_are_refused(config_for: Callable[..., RunConfig]) -> None:
    with pytest.raises(TrainError, match="do not divide into blocks of 64"):
        start(config_for("quantisation.weights=nf4"), Screen(Console(file=io.StringIO())))


def test_grouped_products_are_refused_where_transformers_does_not_dispatch_the_experts(
    config_for: Callable[..., RunConfig], tmp_path: Path
) -> None:
    from tiny_models import build

    model = build("llama4", vocab_size=read_json(embedded_path() / "config.json")["vocab_size"], eos_token_id=4)
    model.save_pretrained(tmp_path / "llama4")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded_path() / name, tmp_path / "llama4" / name)
    for override in ("lora.expert_products=grouped", "lora.dropout=0.1"):
        with pytest.raises(TrainError, match="does not dispatch"):
            start(config_for(f"model={tmp_path / 'llama4'}", override), Screen(Console(file=io.StringIO())))
