"""Every failure the doctor knows, made with the stock library, found; and a healthy model left in peace."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from click.testing import CliRunner

from moe_router import RouterError, find_moe_layers
from moe_router.cli import main
from moe_router.doctor import losses, structure
from moe_router.doctor.checkup import CHECKS, examine, read_run
from moe_router.doctor.findings import Finding, Patient
from tiny_models import build

RELEASE = tuple(int(n) for n in transformers.__version__.split(".")[:2])


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


def test_experts_that_quantisation_does_not_reach(batch) -> None:
    finding = found(build("mixtral"), batch, load_in_4bit=True)["experts-unquantised"]
    assert finding.severity == "error"
    assert "6 expert tensors are float32" in finding.evidence


def test_load_in_4bit_leaves_the_experts_as_they_are(tmp_path, batch) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    build("mixtral", hidden_size=128, intermediate_size=128, head_dim=32, num_key_value_heads=4).save_pretrained(
        tmp_path
    )
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    )
    model.eval()
    patient = Patient(model=model, batch=batch)
    (finding,) = structure.experts_unquantised(patient)
    assert "6 expert tensors are" in finding.evidence


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


WRONG_SELECTION = [
    "deepseek_v4", "ernie4_5_moe", "ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "laguna", "minimax_m2", "minimax_m3_vl",
]  # fmt: skip
RIGHT_SELECTION = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "flex_olmo", "granitemoe", "phimoe", "gpt_oss", "dbrx"]


@pytest.mark.skipif(
    RELEASE < (5, 20), reason="which losses count what ran differs between releases; the eight are of 5.20 and later"
)
@pytest.mark.parametrize("architecture", WRONG_SELECTION + RIGHT_SELECTION)
def test_the_eight_architectures_whose_stock_loss_counts_what_never_ran(architecture: str, batch) -> None:
    findings = losses.selection_never_ran(Patient(model=build(architecture), batch=batch))
    assert [f.check for f in findings] == (["selection-never-ran"] if architecture in WRONG_SELECTION else [])


def test_an_old_release_is_said(batch, monkeypatch) -> None:
    """The running one is of the compat sessions; here the window alone."""
    monkeypatch.setattr(structure, "version", lambda _: "5.3.0")
    finding = found(build("mixtral"), batch)["transformers-version"]
    assert finding.severity == "warning"
    assert "return probabilities in the place of logits" in finding.evidence
    monkeypatch.setattr(structure, "version", lambda _: "4.50.0")
    with pytest.raises(RouterError, match=r"transformers 4.50.0: the routing of releases before 4.57 is not read"):
        found(build("mixtral"), batch)


def test_an_unknown_architecture_is_labelled(batch) -> None:
    model = build("mixtral")
    model.config.model_type = "brand_new_moe"
    with pytest.warns(UserWarning, match="brand_new_moe is not among the tested architectures"):
        finding = found(model, batch)["untested-architecture"]
    assert "recognised by its structure" in finding.title
    assert "MixtralTopKRouter beside MixtralExperts" in finding.evidence


def test_compiled_models(batch) -> None:
    """Before its first call a compiled model has its hooks; after it none is reached, which must not pass for health."""
    whole = torch.compile(build("mixtral"), backend="eager")
    assert structure.compiled_before(Patient(model=whole, batch=batch))[0].severity == "note"
    torch._dynamo.reset()
    by_layer = build("mixtral")
    for layer in by_layer.model.layers:
        layer.compile(backend="eager")
    with torch.no_grad():
        by_layer(**batch, use_cache=False)
    with pytest.raises(RouterError, match=r"0 of 3 routers ran.*load it anew"):
        structure.compiled_before(Patient(model=by_layer, batch=batch))
    torch._dynamo.reset()


@pytest.mark.skipif(RELEASE < (5, 20), reason="older releases do not build all of these small")
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
