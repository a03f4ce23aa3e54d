"""Every failure the doctor knows, made with the stock library, found; and a healthy model left in peace."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from moe_router import RouterError, find_moe_layers
from moe_router.cli import main
from moe_router.doctor.checkup import CHECKS, examine, read_run
from moe_router.doctor.findings import Finding
from tiny_models import build


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 97, (4, 24), generator=generator)
    mask = torch.ones_like(ids)
    mask[3, 15:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def found(model, batch, **run) -> dict[str, Finding]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    findings = {f.check: f for f in examine(model, batch, run=run)}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    return findings


def test_selection_that_never_ran(batch) -> None:
    """GLM4V-MoE's routers add a bias and choose among groups; its stock loss takes the top of the softmax."""
    model = build("glm4v_moe")
    finding = found(model, batch)["selection-never-ran"]
    assert finding.severity == "warning"
    assert found(model, batch, output_router_logits=True)["selection-never-ran"].severity == "error"
    assert "of this batch's tokens" in finding.evidence
    assert "selection-never-ran" not in found(build("mixtral"), batch)


def test_accumulation_multiplies_the_stock_loss(batch) -> None:
    model = build("mixtral", router_aux_loss_coef=0.02)
    assert found(model, batch)["accumulation-factor"].severity == "note"
    model = build("mixtral", router_aux_loss_coef=0.02, output_router_logits=True)
    finding = found(model, batch, training={"gradient_accumulation_steps": 4})["accumulation-factor"]
    assert finding.severity == "error"
    ratio = float(finding.evidence.split(" micro-batches ")[1].split()[0])
    assert 3.5 < ratio < 5


def test_reentrant_checkpointing_cuts_the_stock_gradient(batch) -> None:
    finding = found(build("mixtral"), batch)["reentrant-checkpointing"]
    assert finding.severity == "note"
    assert "and 0.0e+00 with it" in finding.evidence
    assert (
        found(build("mixtral"), batch, gradient_checkpointing_kwargs={"use_reentrant": True})[
            "reentrant-checkpointing"
        ].severity
        == "error"
    )


def test_four_layers_each_collapsed_on_its_own_pair(batch) -> None:
    """Pooled over layers the load is even, and so is the stock loss at its minimum."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    model = build("mixtral", num_hidden_layers=4)
    for n, layer in enumerate(find_moe_layers(model)):

        def collapse(_module, _args, output, n=n):
            logits = output[0].clone()
            logits[:, [2 * n, 2 * n + 1]] += 100
            weights, indices = logits.softmax(-1).topk(2, -1)
            return logits, weights, indices

        layer.router.register_forward_hook(collapse)
    findings = found(model, batch)
    assert "2 of 8 experts used" in findings["pooled-collapse"].evidence
    assert "1.00 pooled" in findings["pooled-collapse"].evidence
    logits = []
    handles = [layer.attach(lambda r: logits.append(r.logits_TE)) for layer in find_moe_layers(model)]
    with torch.no_grad():
        model(**batch)
    del handles
    pooled = load_balancing_loss_func(tuple(logits), 8, 2)
    one = load_balancing_loss_func((logits[0],), 8, 2)
    assert float(pooled) < 2.6  # next to the 2 of an even load
    assert float(one) == pytest.approx(8, rel=0.05)  # four times as much: its own two experts take all
    assert "pooled-collapse" not in found(build("mixtral"), batch)


def test_probabilities_as_logits(batch) -> None:
    finding = found(build("gemma4"), batch)["probabilities-as-logits"]
    assert finding.severity == "warning"
    assert "probabilities-as-logits" not in found(build("mixtral"), batch)


def test_double_softmax_where_the_stock_loss_takes_probabilities(batch) -> None:
    """As transformers 5.0 to 5.5 did: the router returns probabilities, and the loss applies its softmax to them."""
    model = build("mixtral")
    for layer in find_moe_layers(model):
        layer.router.register_forward_hook(lambda _m, _a, out: (out[0].softmax(-1), *out[1:]))
    finding = found(model, batch)["probabilities-as-logits"]
    assert finding.severity == "error"
    assert "second softmax" in finding.title


def test_router_adapted(batch) -> None:
    from peft import LoraConfig, get_peft_model

    model = build("gemma4")  # its router holds an nn.Linear
    assert found(model, batch)["router-adapted"].severity == "note"
    assert found(model, batch, lora={"target_modules": "all-linear"})["router-adapted"].severity == "error"
    with pytest.warns(FutureWarning):
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    adapted.eval()
    finding = found(adapted, batch)["router-adapted"]
    assert finding.severity == "error"
    assert "3 of 3 routers" in finding.evidence


def test_selection_bias_is_never_moved(batch) -> None:
    model = build("deepseek_v3")
    assert found(model, batch)["bias-never-updated"].severity == "note"
    for name, buffer in model.named_buffers():
        if "correction_bias" in name:
            buffer.zero_()
    assert "2 of them zero" in found(model, batch)["bias-never-updated"].evidence


def test_coefficients_without_effect(batch) -> None:
    off = found(build("mixtral", router_aux_loss_coef=0.02), batch)["router-logits-off"]
    assert "0.02 has no effect" in off.title
    assert "router-logits-off" not in found(
        build("mixtral", router_aux_loss_coef=0.02, output_router_logits=True), batch
    )
    assert found(build("llama4", router_aux_loss_coef=0.02), batch)["dead-coefficient"].severity == "warning"


def test_experts_that_adapters_and_quantisation_do_not_reach(batch) -> None:
    run = {"lora": {"target_modules": ["q_proj", "w1", "w2", "w3"]}, "load_in_4bit": True}
    findings = found(build("mixtral"), batch, **run)
    assert findings["experts-untrained"].severity == "error"
    assert "matches modules only" in findings["experts-untrained"].evidence
    assert findings["experts-unquantised"].severity == "error"
    assert "experts-untrained" not in found(
        build("mixtral"), batch, lora={**run["lora"], "target_parameters": ["mlp.experts.down_proj"]}
    )


def test_copied_experts_give_the_router_nothing(batch) -> None:
    model = build("mixtral")
    with torch.no_grad():
        for layer in find_moe_layers(model):
            for parameter in layer.experts.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))
    assert found(model, batch)["router-without-gradient"].severity == "error"
    assert "router-without-gradient" not in found(build("mixtral"), batch)


def test_a_sound_model_and_a_dense_one(batch) -> None:
    healthy = found(build("qwen3_moe", router_aux_loss_coef=0.0), batch)
    assert {f.severity for f in healthy.values()} <= {"note"}
    from transformers import LlamaConfig, LlamaForCausalLM

    dense = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(RouterError, match="no MoE layer"):
        examine(dense, batch)


@pytest.mark.parametrize(
    "architecture", ["gpt_oss", "olmoe", "dbrx", "jetmoe", "switch_transformers", "doge", "granitemoe", "jamba"]
)
def test_checks_run_on_other_architectures(architecture: str, batch) -> None:
    model = build(architecture)
    assert all(f.evidence and f.mend for f in examine(model, batch))


def test_the_command(tmp_path, batch) -> None:
    build("mixtral", router_aux_loss_coef=0.02).save_pretrained(tmp_path / "model")
    (tmp_path / "run.yaml").write_text("lora: {target_modules: [q_proj, w1]}\n")
    result = CliRunner().invoke(main, ["doctor", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert f"{len(CHECKS)} checks:" in result.output
    result = CliRunner().invoke(
        main, ["doctor", str(tmp_path / "model"), "--config", str(tmp_path / "run.yaml"), "--json"]
    )
    assert result.exit_code == 1
    findings = json.loads(result.stdout)["findings"]
    assert findings[0]["severity"] == "error"
    assert {"check", "severity", "title", "evidence", "mend"} == set(findings[0])
    (tmp_path / "bad.yaml").write_text("a: [")
    for bad, message in ((tmp_path / "none.yaml", "no such file"), (tmp_path / "bad.yaml", "neither JSON nor YAML")):
        with pytest.raises(RouterError, match=message):
            read_run(bad)
