"""Routing and memory of a run, as moe-router's and moe-memprof's observers give them, under routers of several kinds.

The counts are compared with the top-k of the router logits that transformers returns for each text alone.
"""

from __future__ import annotations

import json

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from moe_bench import BenchError, Item, run_items
from moe_bench.log import read_header, read_samples
from moe_bench.models import HFModel
from moe_bench.observed import read_observed
from moe_bench.observers import installed, make_watch
from small_mixtral import tokenizer_of_bytes

ITEMS = [
    Item(prompt=f"{word} {n} plus {n * 3}", target=str(n * 4), task="t", operation=operation)
    for n in range(6)
    for word, operation in (("take", "calculate"), ("which of", "compare"))
]


def mixtral(*, top_k: int, collapsed: bool) -> MixtralForCausalLM:
    """Collapsed: every token's state points one way, along which the routers rank the experts 0, 1, 2, 3."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=258, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=top_k, pad_token_id=0, eos_token_id=1, bos_token_id=None, sliding_window=None,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(400)
        model.lm_head.weight[:, 0] = 0
        for layer in model.model.layers:
            layer.mlp.gate.weight.mul_(50)
            if collapsed:
                model.model.embed_tokens.weight[:, 0] = 5.0
                layer.mlp.gate.weight[:, 0] = torch.tensor([4.0, 2.0, 0.0, -2.0])
    return model


def expected_counts(model, texts: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """[part] -> [L, E], from the logits of every text alone: its prompt, and what was generated but for the last token, which no
    router saw."""
    counts = {part: torch.zeros(2, 4, dtype=torch.int64) for part in ("prompt", "answer")}
    for prompt, answer in texts:
        ids = torch.tensor([prompt + answer[:-1]])
        with torch.inference_mode():
            logits = model(ids, output_router_logits=True).router_logits
        for layer, logits_TE in enumerate(logits):
            chosen_TK = logits_TE.topk(model.config.num_experts_per_tok).indices
            for part, rows in (("prompt", chosen_TK[: len(prompt)]), ("answer", chosen_TK[len(prompt) :])):
                counts[part][layer] += torch.bincount(rows.reshape(-1), minlength=4)
    return counts


def generated(model, prompt: list[int]) -> list[int]:
    """What transformers' own `generate` writes to a prompt alone."""
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def a_token_that_parts(model, plain: HFModel) -> int:
    """One that stands at different places of the answers, so that rows of a batch end at different times if it ends them."""
    answers = [generated(model, plain.encode(item.prompt)) for item in ITEMS]
    places = {t: {a.index(t) if t in a else 9 for a in answers} for answer in answers for t in answer}
    return max(places, key=lambda t: (len(places[t]), min(places[t])))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Observed runs by (top_k, collapsed)."""
    done = {}
    for top_k, collapsed in ((1, False), (1, True), (2, False), (2, True)):
        model = mixtral(top_k=top_k, collapsed=collapsed)
        plain = HFModel(model, tokenizer_of_bytes(template=False), batch_size=4, max_new_tokens=10)
        model.generation_config.eos_token_id = [1, a_token_that_parts(model, plain)]
        watch = make_watch(["routing", "memory"])
        watch.start()
        out = tmp_path_factory.mktemp("run")
        run_items(plain, ITEMS, out, suite="s", model_name="m", watch=watch, plugins=installed())
        done[top_k, collapsed] = (model, plain, out)
    return done


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_counts_are_those_of_the_routers(runs, top_k: int, collapsed: bool) -> None:
    model, plain, out = runs[top_k, collapsed]
    observed = read_observed(out)["routing"]
    assert (observed["answers"], observed["of"]) == (12, 12)
    parts = observed["result"]["parts"]
    texts, by_group = [], {"calculate": 0, "compare": 0}
    for sample in read_samples(out):
        prompt = plain.encode(sample["prompt"])
        texts.append((prompt, generated(model, prompt)))
        by_group[sample["operation"]] += len(prompt)
    assert len({len(answer) for _, answer in texts}) > 1, "answers of one length would prove little"
    expected = expected_counts(model, texts)
    for part in ("prompt", "answer"):
        groups = parts[part]["groups"].values()
        total = torch.tensor([group["counts_LE"] for group in groups]).sum(0)
        assert torch.equal(total, expected[part])
        assert total.sum() == 2 * top_k * sum(group["tokens"] for group in groups)
    assert {name: group["tokens"] for name, group in parts["prompt"]["groups"].items()} == by_group


def test_a_collapsed_router_shows(runs) -> None:
    """One expert of four does everything with top-1, two share it with top-2: a balance of exactly 0, and of a half."""
    for top_k, balance, dead in ((1, 0.0, [1, 2, 3]), (2, 0.5, [2, 3])):
        for part in ("prompt", "answer"):
            even, collapsed = (
                read_observed(runs[top_k, c][2])["routing"]["result"]["parts"][part] for c in (False, True)
            )
            assert even["balance"] > 0.8
            assert [layer["dead"] for layer in even["layers"]] == [[], []]
            assert collapsed["balance"] == pytest.approx(balance, abs=1e-12)
            assert [layer["dead"] for layer in collapsed["layers"]] == [dead, dead]
            assert [layer["max_violation"] for layer in collapsed["layers"]] == [4 / top_k - 1] * 2
            # Experts that serve every operation alike are not specialised; those that serve none have no measure.
            for scores in collapsed["score_LE"]:
                assert scores == [pytest.approx(0, abs=1e-9)] * top_k + [None] * (4 - top_k)
            assert collapsed["specialisation"]["permutations"] == 199
            assert collapsed["specialisation"]["bits_L"] == pytest.approx([0, 0], abs=1e-9)
            assert min(even["specialisation"]["bits_L"]) > 0


def test_observed_answers_are_the_answers(runs, tmp_path) -> None:
    _, plain, out = runs[2, False]
    run_items(plain, ITEMS, tmp_path / "unseen", suite="s", model_name="m")
    texts = [{s["id"]: s["output"] for s in read_samples(folder)} for folder in (out, tmp_path / "unseen")]
    assert texts[0] == texts[1]


def test_memory_by_phase_and_what_is_kept(runs) -> None:
    out = runs[2, False][2]
    observed = read_observed(out)
    peaks = observed["memory"]["result"]["resident"]
    assert set(peaks) == {"prompt", "answer"}  # it was loaded before
    assert all(peak > 50 * 2**20 for peak in peaks.values())
    assert set(read_header(out)["observers"]) == {"routing", "memory"}
    pytest.importorskip("matplotlib")
    svg = (out / "observed" / "routing.svg").read_text()
    assert "load over the mean" in svg
    assert "calculate" in svg


def test_sessions_are_joined(runs, tmp_path) -> None:
    _, plain, out = runs[2, False]
    whole = read_observed(out)["routing"]["result"]["parts"]
    folder = tmp_path / "run"
    run_items(plain, ITEMS, folder, suite="s", model_name="m", watch=make_watch(["routing"]))
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    parts = folder / "observed" / "parts"
    for path in parts.iterdir():
        path.unlink()
    for keep in (0, 5):  # the first five answers are observed in one session, all others in the next
        (folder / "samples.jsonl").write_bytes(b"".join(lines[:keep]))
        if keep == 0:
            ids = {json.loads(line)["id"] for line in lines[:5]}
            some = [item for item in ITEMS if item.id in ids]
            run_items(plain, some, tmp_path / "some", suite="s", model_name="m", watch=make_watch(["routing"]))
            first = next((tmp_path / "some" / "observed" / "parts").glob("routing-*.json"))
            (parts / first.name).write_bytes(first.read_bytes())
        else:
            run_items(plain, ITEMS, folder, suite="s", model_name="m", watch=make_watch(["routing"]))
    joined = read_observed(folder)["routing"]
    assert (joined["parts"], joined["answers"]) == (2, 12)
    for part, values in joined["result"]["parts"].items():
        assert {n: g["counts_LE"] for n, g in values["groups"].items()} == {
            n: g["counts_LE"] for n, g in whole[part]["groups"].items()
        }
        assert values["balance"] == pytest.approx(whole[part]["balance"])


def test_a_model_without_experts_is_said(tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=258, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0,
        eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = HFModel(LlamaForCausalLM(config), tokenizer_of_bytes(template=False), max_new_tokens=2)
    with pytest.raises(BenchError, match="observer routing: no MoE layer to record"):
        run_items(model, ITEMS, tmp_path / "r", suite="s", model_name="m", watch=make_watch(["routing"]))
