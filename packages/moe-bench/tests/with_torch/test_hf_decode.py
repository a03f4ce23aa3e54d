"""The token-by-token loop against transformers' own `generate`, and against itself in other batches."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from moe_bench import BenchError
from moe_bench.models import HFModel, Request, Sampling, Turn
from moe_bench.models.decode import Decoder
from moe_bench.models.sampling import Draws, choose
from moe_bench.observers import Watch
from small_mixtral import small_mixtral, tokenizer_of_bytes

COMMON = {
    "vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip


def sharp(model):
    """So that rounding cannot turn an argmax, and that answers end at different lengths."""
    model = model.eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    return model


@pytest.fixture(scope="module")
def mixtral() -> MixtralForCausalLM:
    return sharp(small_mixtral())


def prompts(count: int, *, begin: str = "", seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [begin + "".join(draw.choices("abcdefgh 123", k=draw.randint(1, 30))) for _ in range(count)]


def by_generate(model, tokenizer, text: str, limit: int) -> list[int]:
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, pad_token_id=0
        )
    return out[0, ids.shape[1] :].tolist()


def all_answers(model: HFModel, asked, **more) -> dict[int, object]:
    found = [a for batch in model.answer(asked, **more) for a in batch]
    assert len({a.position for a in found}) == len(found) == len(asked)
    return {a.position: a for a in found}


class Seen:
    """A module's calls: rows and positions of each."""

    def __init__(self, model) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _module, _args, kwargs) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._handle.remove()


@pytest.mark.parametrize("begin", ["", "the same beginning for all of them, word for word: "])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rows_that_come_and_go_write_what_generate_writes(mixtral, batch_size: int, begin: str) -> None:
    tokenizer = tokenizer_of_bytes(template=False)
    texts = prompts(17, begin=begin)
    # Every byte that an answer begins with may be its end, so that rows end at very different times.
    ends = {by_generate(mixtral, tokenizer, t, 1)[0] for t in texts[::4]}
    model = HFModel(mixtral, tokenizer, batch_size=batch_size, max_new_tokens=24)
    mixtral.generation_config.eos_token_id = [1, *ends]
    try:
        found = all_answers(model, texts)
        expected = {i: by_generate(mixtral, tokenizer, t, 24) for i, t in enumerate(texts)}
    finally:
        mixtral.generation_config.eos_token_id = 1
    lengths = set()
    for i, ids in expected.items():
        ended = ids[-1] in {1, *ends}
        assert found[i].text == tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True).strip()
        assert (found[i].tokens, found[i].ended) == (len(ids), ended)
        lengths.add(len(ids))
    assert len(lengths) >= 3, "answers of one length would prove little"


def test_what_prompts_share_is_read_once(mixtral) -> None:
    """Worked examples go through the model once for each task; equal prompts once for all their answers; places are filled again."""
    tokenizer = tokenizer_of_bytes(template=False)
    examples = {t: (Turn("user", t * 60), Turn("assistant", t)) for t in "xy"}
    asked = [Request(turns=(*examples["xy"[n % 2]], Turn("user", f"{n // 2}")), seed=n) for n in range(20)]
    with Seen(mixtral) as seen:
        found = all_answers(HFModel(mixtral, tokenizer, batch_size=8, max_new_tokens=5), asked)
    beginnings = [width for rows, width in seen.shapes if width > 60]
    assert len(beginnings) == 2
    assert max(rows for rows, _ in seen.shapes) == 8
    suffixes = sum(rows * width for rows, width in seen.shapes if 1 < width <= 60)
    assert suffixes <= 20 * 3
    alone = HFModel(mixtral, tokenizer, batch_size=1, max_new_tokens=5)
    for i, request in enumerate(asked):
        ((answer,),) = alone.answer([request])
        assert answer[1:] == found[i][1:]
    drawn = HFModel(mixtral, tokenizer, batch_size=8, sampling=Sampling(temperature=1.0, max_new_tokens=2))
    with Seen(mixtral) as seen:
        all_answers(drawn, [Request(turns=(Turn("user", "abcdef"),), seed=n) for n in range(8)])
    assert seen.shapes[:2] == [(1, 5), (1, 1)], "eight draws from one prompt read it once"
    assert 1 < seen.shapes[2][0] <= 8


def test_the_batch_is_refilled(mixtral) -> None:
    """Passes are many fewer than those of batches that wait for their longest answer."""
    tokenizer = tokenizer_of_bytes(template=False)
    texts = prompts(48, seed=3)
    firsts = Counter(by_generate(mixtral, tokenizer, t, 1)[0] for t in texts)
    mixtral.generation_config.eos_token_id = [1, *(token for token, _ in firsts.most_common(len(firsts) // 2))]
    try:
        model = HFModel(mixtral, tokenizer, batch_size=8, max_new_tokens=40)
        counts = {}
        for name, watch in (("together", Watch({"nobody": Silent()})), ("stream", Watch({}))):
            with Seen(mixtral) as seen:
                counts[name] = (all_answers(model, texts, watch=watch), len(seen.shapes))
    finally:
        mixtral.generation_config.eos_token_id = 1
    assert counts["stream"][0] == counts["together"][0]
    assert counts["stream"][1] < 0.8 * counts["together"][1]


class Silent:
    """An observer that only makes batches stay together."""

    protocol = 1

    def group(self, name):
        return self

    phase = group

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass


def windowed():
    config = GptOssConfig(
        **COMMON, intermediate_size=32, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return sharp(GptOssForCausalLM(config))


def recurrent():
    config = JambaConfig(
        **COMMON, intermediate_size=32, num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1,
        expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4, mamba_d_conv=4, use_mamba_kernels=False,
    )  # fmt: skip
    return sharp(JambaForCausalLM(config))


def of_its_own():
    config = MambaConfig(
        vocab_size=258, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0, eos_token_id=1
    )
    return sharp(MambaForCausalLM(config))


def qwen():
    config = Qwen3MoeConfig(
        **COMMON, intermediate_size=32, moe_intermediate_size=16, head_dim=16, num_experts=4, num_experts_per_tok=2
    )
    return sharp(Qwen3MoeForCausalLM(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "flexible"), [(qwen, True), (windowed, False), (recurrent, False), (of_its_own, None)],
    ids=["qwen3-moe", "gpt-oss", "jamba", "mamba"],
)  # fmt: skip
def test_models_of_other_kinds(make, flexible: bool | None) -> None:
    """Those whose layers do not keep every key stay together; those that are called differently go through `generate`."""
    torch.manual_seed(0)
    model, tokenizer = make(), tokenizer_of_bytes(template=False)
    decoder = Decoder(model, pad=0, batch_size=4, finished=lambda _: "", top_p=1, temperature=0)
    assert decoder.supported == (flexible is not None)
    if flexible is not None:
        assert decoder.flexible == flexible
    texts = prompts(9, begin="alike: ")
    found = all_answers(HFModel(model, tokenizer, batch_size=4, max_new_tokens=12), texts)
    for i, text in enumerate(texts):
        ids = by_generate(model, tokenizer, text, 12)
        assert found[i].text == tokenizer.decode(ids, skip_special_tokens=True).strip()
    if flexible is None:
        with pytest.raises(BenchError, match="MambaForCausalLM is decoded by transformers' generate"):
            list(HFModel(model, tokenizer, sampling=Sampling(temperature=1.0)).answer(texts))


def test_draws_depend_on_neither_batch_nor_order() -> None:
    model, tokenizer = small_mixtral().eval(), tokenizer_of_bytes(template=False)
    sampling = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=16)
    asked = [Request(turns=(Turn("user", text),), seed=100 + i) for i, text in enumerate(prompts(12))]
    found = all_answers(HFModel(model, tokenizer, batch_size=5, sampling=sampling), asked)
    order = random.Random(1).sample(range(12), 12)
    other = all_answers(HFModel(model, tokenizer, batch_size=3, sampling=sampling), [asked[i] for i in order])
    assert [other[order.index(i)].text for i in range(12)] == [found[i].text for i in range(12)]
    again = [Request(turns=r.turns, seed=r.seed + 1) for r in asked]
    changed = all_answers(HFModel(model, tokenizer, batch_size=5, sampling=sampling), again)
    assert sum(changed[i].text != found[i].text for i in range(12)) == 12


def test_the_distribution_drawn_from() -> None:
    """Frequencies of 20,000 draws against softmax, and against transformers' own nucleus."""
    from scipy import stats
    from transformers import TopPLogitsWarper

    torch.manual_seed(0)
    logits_1V = torch.randn(1, 12) * 2
    draws = [Draws(n) for n in range(20_000)]
    for top_p in (1.0, 0.8):
        warped = TopPLogitsWarper(top_p)(None, logits_1V / 0.7) if top_p < 1 else logits_1V / 0.7
        expected = torch.softmax(warped.double(), -1)[0].numpy()
        tokens = choose(logits_1V.expand(20_000, -1), draws, temperature=0.7, top_p=top_p)
        counted = torch.bincount(torch.tensor(tokens), minlength=12).numpy()
        assert (counted[expected == 0] == 0).all()
        kept = expected > 0
        assert stats.chisquare(counted[kept], 20_000 * expected[kept] / expected[kept].sum()).pvalue > 1e-4


def test_an_answer_ends_with_its_line(mixtral) -> None:
    """A model made to write a fixed text: it is ended at the mark's line, and at a stop text."""
    tokenizer = tokenizer_of_bytes(template=False)
    script = tokenizer("2+2=4\n#### 4\nQuestion: more and more")["input_ids"]

    def overwrite(_module, _args, kwargs, out):
        at = kwargs["past_key_values"].get_seq_length() - 3
        out.logits[:] = -9.0
        out.logits[..., script[min(at, len(script) - 1)]] = 9.0

    model = MixtralForCausalLM(mixtral.config).eval()
    model.register_forward_hook(overwrite, with_kwargs=True)
    for sampling, text, tokens, finish in (
        (Sampling(), "2+2=4\n#### 4", 13, "answer"),
        (Sampling(stop_on_answer=False, max_new_tokens=20), "2+2=4\n#### 4\nQuestio", 20, "length"),
        (Sampling(stop_on_answer=False, stop=("Question:",)), "2+2=4\n#### 4", 22, "stop"),
    ):
        ((answer,),) = HFModel(model, tokenizer, sampling=sampling).answer(["abc"])
        assert (answer.text, answer.tokens, answer.finish) == (text, tokens, finish)


def test_what_cannot_be_read_is_said(mixtral) -> None:
    tokenizer = tokenizer_of_bytes(template=True)
    model = HFModel(mixtral, tokenizer)
    limit = mixtral.config.max_position_embeddings
    mixtral.config.max_position_embeddings = 20
    try:
        with pytest.raises(BenchError, match="its prompt has 31 tokens, the model reads 1 to 19"):
            list(model.answer(["a" * 30]))
        ((answer,),) = model.answer(["a" * 14])
        assert (answer.tokens, answer.finish) == (5, "length")
    finally:
        mixtral.config.max_position_embeddings = limit
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(BenchError, match=r"chat template: does not take turns of system, user .no system here"):
        list(model.answer([Request(turns=(Turn("system", "s"), Turn("user", "u")))]))
    mixtral.generation_config.repetition_penalty = 1.3
    assert model.settings["not_applied"] == {"repetition_penalty": 1.3}
    mixtral.generation_config.repetition_penalty = None
