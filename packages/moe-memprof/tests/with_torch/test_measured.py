"""The estimate against what torch really allocates."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from moe_memprof import RunSpec, estimate
from moe_memprof.measure import measure_step

MIB = 2**20


def test_measure_step_against_an_allocation_by_hand() -> None:
    def call() -> torch.Tensor:
        a = torch.zeros(4 * MIB)  # 16 MiB
        b = a + 1  # 32 MiB alive
        del a
        return b[: MIB // 2].clone()  # 18 MiB alive; 2 MiB stay

    kept = []
    measured = measure_step(lambda: kept.append(call()))
    assert measured.device == "cpu"
    assert measured.peak == pytest.approx(32 * MIB, rel=0.001)
    assert measured.end == pytest.approx(2 * MIB, rel=0.001)
    assert measure_step(lambda: None).peak == 0


SMALL = {
    "model_type": "mixtral", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": True,
    "sliding_window": None,
}  # fmt: skip


def measured_rise(config: dict, *, method: str, batch: int, seq: int, experts: bool = True) -> tuple[int, int]:
    """(planned, measured) rise of a training step's live tensor bytes above weights and optimizer state."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    kind = {k: v for k, v in config.items() if k != "model_type"}
    model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **kind))
    if method == "lora":
        targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if experts else None
        lora = LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], target_parameters=targets)
        with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
            model = get_peft_model(model, lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.randint(0, config["vocab_size"], (batch, seq))

    def step() -> None:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        del logits
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # the optimizer gets its state
    measured = measure_step(step).peak
    made = estimate(
        RunSpec(
            config=config,
            method=method,
            lora_experts=experts,
            sequences=batch,
            length=seq,
            device="cpu",
            loss_share=(seq - 1) / seq,
        )
    )  # type: ignore[arg-type]
    fixed = ("weights:", "LoRA:", "optimizer state")
    planned = sum(p.bytes for p in made.phase("step").parts if not p.name.startswith(fixed))
    return planned, measured


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(("batch", "seq"), [(16, 96), (4, 256)])
def test_planned_step_against_measured(method: str, batch: int, seq: int) -> None:
    planned, measured = measured_rise(SMALL, method=method, batch=batch, seq=seq)
    assert planned == pytest.approx(measured, rel=0.03)


def test_a_fraction_of_no_gpu_is_refused() -> None:
    from moe_memprof import MemprofError
    from moe_memprof.measure import limit_memory

    with pytest.raises(MemprofError, match="above 0 and at most 1"):
        limit_memory(0.0)
    if not torch.cuda.is_available():
        with pytest.raises(MemprofError, match="sees no GPU"):
            limit_memory(0.5)
