"""Generation with real (tiny) models: the batch must not matter, and the model is left as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import MixtralConfig, MixtralForCausalLM

from moe_bench import BenchError
from moe_bench.cli import main
from moe_bench.log import read_samples
from moe_bench.models import HFModel
from moe_bench.tasks import make_items
from small_mixtral import small_mixtral, tokenizer_of_bytes


@pytest.fixture(scope="module")
def model() -> MixtralForCausalLM:
    model = small_mixtral()
    with torch.no_grad():  # sharpen, so that rounding cannot turn an argmax
        model.lm_head.weight.mul_(40)
    return model


@pytest.mark.parametrize("template", [False, True])
def test_batched_equals_one_by_one(model, template: bool) -> None:
    prompts = ["a", "a longer prompt than that", "mid size", "xyz " * 12, "b"]
    tokenizer = tokenizer_of_bytes(template=template)
    together = {
        a.position: a
        for batch in HFModel(model, tokenizer, batch_size=3, max_new_tokens=12).answer(prompts)
        for a in batch
    }
    assert sorted(together) == list(range(5))
    for i, prompt in enumerate(prompts):
        ((alone,),) = HFModel(model, tokenizer, batch_size=1, max_new_tokens=12).answer([prompt])
        assert alone[1:] == together[i][1:]
        text = prompt + ":" if template else prompt
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        out = model.generate(
            ids, max_new_tokens=12, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(ids)
        )
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == alone.text


def test_model_is_left_as_it_was(model) -> None:
    tokenizer = tokenizer_of_bytes(template=True)
    model.train()
    model.config.use_cache = False
    before = (tokenizer.padding_side, json.dumps(model.generation_config.to_dict(), default=str))
    list(HFModel(model, tokenizer, max_new_tokens=2).answer(["a", "bb"]))
    assert model.training
    assert model.config.use_cache is False
    assert (tokenizer.padding_side, json.dumps(model.generation_config.to_dict(), default=str)) == before


def test_end_token_ends_an_answer() -> None:
    config = MixtralConfig(
        vocab_size=258, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        num_local_experts=2, pad_token_id=0, eos_token_id=1, bos_token_id=None, sliding_window=None, tie_word_embeddings=True,
    )  # fmt: skip
    ender = MixtralForCausalLM(config)
    with torch.no_grad():
        for name, parameter in ender.named_parameters():
            if "layers" in name and "norm" not in name:
                parameter.zero_()  # the residual stream is the token's own embedding ...
        ender.model.embed_tokens.weight.fill_(0.1)
        ender.model.embed_tokens.weight[1] = 1.0  # ... to which the end token's is the nearest
    ((answer,),) = HFModel(ender, tokenizer_of_bytes(template=False), max_new_tokens=9).answer(["abc"])
    assert answer == (0, "", 1, True, "end")


def test_command_run_resumes_and_compares(model, tmp_path) -> None:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer_of_bytes(template=True).save_pretrained(folder)
    arguments = ["run", "--model", str(folder), "--suite", "composition", "--per-task", "2", "--max-new-tokens", "4"]
    for name in ("a", "b"):
        result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / name), "--json"])
        assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["items"] == 8
    assert [s["output"] for s in read_samples(tmp_path / "a")] == [s["output"] for s in read_samples(tmp_path / "b")]
    result = CliRunner().invoke(main, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 0
    data = tmp_path / "data.jsonl"
    items = make_items(["addition"], count_per_family=3, seed=0)
    data.write_text("".join(json.dumps({"prompt": i.prompt, "target": i.target}) + "\n" for i in items))
    arguments = [
        "run",
        "--model",
        str(folder),
        "--data",
        str(data),
        "--limit",
        "2",
        "--max-new-tokens",
        "3",
        "-o",
        str(tmp_path / "c"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert len(read_samples(tmp_path / "c")) == 2


def test_adapter_changes_the_answers(model, tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer_of_bytes(template=False).save_pretrained(folder)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        wrapped = get_peft_model(
            MixtralForCausalLM.from_pretrained(folder),
            LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
        )
    wrapped.save_pretrained(tmp_path / "adapter")
    plain = HFModel.load(folder, max_new_tokens=8)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        adapted = HFModel.load(folder, adapter=tmp_path / "adapter", max_new_tokens=8)
    ((a,),), ((b,),) = plain.answer(["hello there"]), adapted.answer(["hello there"])
    direct = next(iter(HFModel(wrapped, plain.tokenizer, max_new_tokens=8).answer(["hello there"])))[0]
    assert b.text == direct.text
    assert a.text != b.text


def test_what_cannot_be_loaded_is_said(tmp_path) -> None:
    with pytest.raises(BenchError, match="no such folder"):
        HFModel.load("./nowhere")
    with pytest.raises(BenchError, match=r"no config\.json"):
        HFModel.load(tmp_path)
    with pytest.raises(BenchError, match="at least 1"):
        HFModel(torch.nn.Linear(1, 1), tokenizer_of_bytes(template=False), batch_size=0)
    MixtralForCausalLM(
        MixtralConfig(
            vocab_size=258,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).save_pretrained(tmp_path / "m")
    tokenizer_of_bytes(template=False).save_pretrained(tmp_path / "m")
    with pytest.raises(BenchError, match=r"no adapter_config.json"):
        HFModel.load(tmp_path / "m", adapter=Path(tmp_path))
