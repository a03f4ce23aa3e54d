"""The loss in chunks against transformers' own, value and every gradient, on every architecture; its memory; what falls back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

import tiny_models
from moe_memprof.measure import measure_step
from moe_train import RunConfig, TrainError
from moe_train.data import IGNORED, Batch
from moe_train.loss import CHUNK, after_head, completion_loss, loss_of, token_losses
from moe_train.model import load_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NOT_ALONE = {
    "deepseek_ocr2", "diffusion_gemma", "ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "mistral4", "mistral_large4", "muse_spark", "nllb_moe",
    "openai_privacy_filter", "qwen3_omni_moe", "qwen3_vl_moe", "step3p7", "switch_transformers", "unlimited_ocr",
}  # fmt: skip
"""Architectures that transformers does not load as a causal language model."""


def batch_of(lengths: list[int], vocabulary: int, *, seed: int = 0) -> Batch:
    """Rows of random tokens, the first three of each being the prompt, the end padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (len(lengths), max(lengths)), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    for row, length in enumerate(lengths):
        labels[row, :3] = labels[row, length:] = IGNORED
        mask[row, length:] = 0
    return Batch(input_ids_BS=ids, attention_mask_BS=mask, labels_BS=labels, lengths_B=list(lengths))


def stock(model: Any, batch: Batch) -> torch.Tensor:
    """transformers' own loss, times the tokens it is the mean of."""
    wanted = int((batch.labels_BS[:, 1:] != IGNORED).sum())
    out = model(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, labels=batch.labels_BS, use_cache=False
    )
    return out.loss * wanted


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", sorted(set(tiny_models.SPECIFIC) - NOT_ALONE))
def test_it_is_the_stock_loss_with_the_stock_gradients(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_train.loss.CHUNK", 7)  # several chunks, the last one not full
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = tiny_models.build(architecture).eval()
    assert type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING
    after = after_head(model)
    assert after is not None
    batch = batch_of([19, 12], 97)
    for kind in ("load_balancing_loss", "output_router_logits"):  # losses that the stock one adds on its own
        if hasattr(model.config, kind):
            setattr(model.config, kind, False)
    wanted, ours = stock(model, batch), completion_loss(model, batch, after=after)
    assert float((ours - wanted).abs()) < 1e-5 * float(wanted)
    theirs, mine = gradients(model, stock(model, batch)), gradients(model, completion_loss(model, batch, after=after))
    assert set(mine) == set(theirs)
    whole = sum(float(gradient.square().sum()) for gradient in theirs.values()) ** 0.5
    for name, gradient in theirs.items():
        assert float((mine[name] - gradient).norm()) < 2e-5 * float(gradient.norm()) + 1e-6 * whole, name
    each = token_losses(model, batch, after=after)
    assert torch.allclose(each.sum(), wanted, rtol=1e-5)
    assert torch.allclose(each, token_losses(model, batch), atol=1e-5)


def test_what_a_model_does_after_its_head_is_found() -> None:
    x = torch.tensor([-50.0, 0.5, 50.0])
    capped = tiny_models.build("gemma4", final_logit_softcapping=30.0)
    after = after_head(capped)
    assert after is not None
    assert torch.allclose(after(x), 30 * torch.tanh(x / 30))
    scaled = tiny_models.build("granitemoe", logits_scaling=4.0)
    after = after_head(scaled)
    assert after is not None
    assert torch.equal(after(x), x / 4)


def test_what_cannot_be_told_is_not_guessed(
    config_for: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models.build("mixtral")
    forward = type(model).forward

    def bent(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = out.logits**3
        return out

    monkeypatch.setattr(type(model), "forward", bent)
    assert after_head(model) is None
    config = config_for("training.loss=chunked")
    loaded = load_model(config.model, device=torch.device("cpu"), dtype=torch.float32)
    assert loaded.after is None
    with pytest.raises(TrainError, match="leave it at auto"):
        loss_of(config, loaded)
    assert loss_of(config_for(), loaded) is None


def test_bfloat16_and_a_frozen_head_agree_too() -> None:
    torch.manual_seed(0)
    model = tiny_models.build("qwen3_moe").bfloat16().eval()
    model.get_output_embeddings().weight.requires_grad_(False)
    after, batch = after_head(model), batch_of([19, 12], 97)
    theirs = gradients(model, completion_loss(model, batch))
    mine = gradients(model, completion_loss(model, batch, after=after))
    assert "lm_head.weight" not in mine
    for name, gradient in theirs.items():
        assert float((mine[name] - gradient).norm()) <= 2e-2 * float(gradient.norm()) + 1e-6, name


def test_the_logits_are_never_all_there() -> None:
    """Live tensor bytes of a step with a vocabulary of 32,000: less than a tenth of what all logits take at once."""
    torch.manual_seed(0)
    model = tiny_models.build("mixtral", vocab_size=32_000)
    for p in model.get_output_embeddings().parameters():
        p.requires_grad_(False)
    after, batch = after_head(model), batch_of([1024, 1024], 32_000)

    def peak(after: Any) -> int:
        model.zero_grad(set_to_none=True)
        return measure_step(lambda: completion_loss(model, batch, after=after).backward()).peak

    whole, chunked = peak(None), peak(after)
    logits = 2 * 1024 * 32_000 * 4
    print(f"logits {logits / 2**20:.0f} MiB, whole {whole / 2**20:.0f} MiB, chunked {chunked / 2**20:.0f} MiB")
    assert whole > 3 * logits
    assert chunked < 3.2 * CHUNK * 32_000 * 4 + 0.1 * logits


def test_the_plan_and_the_trainer_agree_on_the_chunk() -> None:
    from moe_memprof.replay import step

    assert step.CHUNK == CHUNK
