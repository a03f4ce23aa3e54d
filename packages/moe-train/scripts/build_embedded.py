"""Build the model that ships inside moe-train: tokenizer, weights, scores and card, all from this one command.

    python packages/moe-train/scripts/build_embedded.py            # everything, about 30 minutes on 2 CPU cores
    python packages/moe-train/scripts/build_embedded.py --steps 50 --out /tmp/try   # a quick look

The model is a Mixtral (4 layers, 8 experts, top-2) trained from scratch on problems that `moe_bench.tasks` generates,
train split only. The families in `NEW_TO_EMBEDDED` are left out: they are what the quickstart teaches it.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import click
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from moe_bench import run_items
from moe_bench.item import Item
from moe_bench.models import HFModel
from moe_bench.tasks import FAMILIES, NEW_TO_EMBEDDED, SUITES, make_items, split_of
from moe_router import RoutingBalancer, RoutingRecorder
from moe_router.metrics.load import max_violation, normalised_entropy

OUT = Path(__file__).parents[1] / "src" / "moe_train" / "assets" / "embedded"
VOCABULARY = 768
SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOKENS_PER_BATCH = 4096
PROMPT_WEIGHT = 0.1  # a prompt's numbers are random: there is little in them to learn
PEAK_LEARNING_RATE = 3e-3
HARD = {
    "sort_ascending": 4,
    "deduction": 3,
    "tracking": 3,
    "counting": 2,
    "subtraction": 2,
    "division": 2,
    "equation_add": 2,
}
"""Families drawn more often than the others, and how much."""


def conversation(item: Item) -> list[dict[str, str]]:
    """The chat an item is trained on."""
    return [
        {"role": "user", "content": item.prompt},
        {"role": "assistant", "content": f"{item.solution}\nThe answer is {item.target}."},
    ]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every digit is a token of its own, so that place value can be learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def stream(rng: Random) -> Iterator[Item]:
    """Endless train-split items; the families that are hard to learn come more often."""
    names = SUITES["foundation"]
    weights = [HARD.get(name, 1) for name in names]
    while True:
        family = FAMILIES[rng.choices(names, weights)[0]]
        problem = family.generate(rng)
        item = Item(
            prompt=problem.prompt,
            target=problem.answer,
            task=family.name,
            operation=family.operation,
            solution=problem.solution,
        )
        if split_of(item.id) == "train":
            yield item


def batches(tokenizer: PreTrainedTokenizerFast, rng: Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded batches of about TOKENS_PER_BATCH tokens: ids [B, S] and attention mask [B, S]."""
    items = stream(rng)
    while True:
        texts = [tokenizer.apply_chat_template(conversation(next(items)), tokenize=False) for _ in range(2048)]
        encoded = sorted(tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
        groups: list[list[list[int]]] = [[]]
        for ids in encoded:  # sorted, so that padding is small
            if groups[-1] and (len(groups[-1]) + 1) * len(ids) > TOKENS_PER_BATCH:
                groups.append([])
            groups[-1].append(ids)
        rng.shuffle(groups)
        for group in groups:
            width = max(map(len, group))
            ids_BS = torch.tensor([ids + [0] * (width - len(ids)) for ids in group])
            mask_BS = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in group])
            yield ids_BS, mask_BS


def weighted_loss(logits_BSV: Tensor, ids_BS: Tensor, mask_BS: Tensor, answer_id: int) -> Tensor:
    """Cross-entropy in nats per token, tokens of the prompt weighing less than those of the answer."""
    loss_BS = functional.cross_entropy(logits_BSV[:, :-1].transpose(1, 2), ids_BS[:, 1:], reduction="none")
    answer_BS = (ids_BS == answer_id).cumsum(1)[:, :-1] > 0
    weight_BS = torch.where(answer_BS, 1.0, PROMPT_WEIGHT) * mask_BS[:, 1:]
    return (loss_BS * weight_BS).sum() / weight_BS.sum()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for weight matrices [..., out, in] (Jordan et al. 2024).

    Newton–Schulz iterations and their coefficients are those of the reference implementation (github.com/KellerJordan/Muon), the
    scale of the update that of Liu et al. 2025 (arXiv 2502.16982). torch.optim.Muon takes no stacks of matrices, which experts are.
    """

    def __init__(
        self, parameters: list[torch.nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Do one update."""
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape[-2:])))


def orthogonal(matrix: Tensor) -> Tensor:
    """Five Newton–Schulz steps towards the nearest matrix with singular values 1."""
    x = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def train(model: MixtralForCausalLM, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int) -> dict[str, float]:
    """Language-model training on whole conversations, prompts at a tenth of the weight; returns the last loss, tokens seen and seconds."""
    matrices = [p for n, p in model.named_parameters() if "self_attn" in n or "experts" in n]
    others = [p for n, p in model.named_parameters() if "self_attn" not in n and "experts" not in n]
    optimizers = [
        Muon(matrices, lr=PEAK_LEARNING_RATE),
        torch.optim.AdamW(others, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05),
    ]
    balancer = RoutingBalancer(model, load_balancing=0.01, z_loss=1e-4)
    data = batches(tokenizer, Random(seed))
    answer_id = tokenizer.convert_tokens_to_ids("<|assistant|>")
    started, tokens, smooth = time.time(), 0, math.nan
    for step in range(steps):
        rate = (
            PEAK_LEARNING_RATE
            * min(1.0, (step + 1) / 100)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        )
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        ids_BS, mask_BS = next(data)
        balancer.begin_step(tokens=int(mask_BS.sum()))
        with balancer.micro_batch(mask_BS):
            logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS).logits
            loss = weighted_loss(logits_BSV, ids_BS, mask_BS, answer_id)
            (loss + balancer.loss()).backward()
        routing = balancer.end_step()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += int(mask_BS.sum())
        smooth = loss.item() if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.time() - started
            worst = max(float(v) for v in routing.max_vio_L)
            click.echo(
                f"step {step:5d}  loss {smooth:.4f}  lr {rate:.2e}  {tokens / seconds:6.0f} tok/s  MaxVio {worst:.2f}  {seconds:5.0f} s"
            )
    balancer.close()
    return {"final_loss": round(smooth, 4), "tokens": tokens, "seconds": round(time.time() - started)}


def score(folder: Path, *, per_family: int) -> dict[str, float]:
    """Greedy accuracy by family on the test split, from the saved files."""
    model = HFModel.load(folder, batch_size=128, max_new_tokens=120)
    items = make_items(FAMILIES, count_per_family=per_family, seed=0, split="test")
    run = folder.parent / "scores"
    run_items(model, items, run, suite="all", model_name="embedded")
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    return {
        name: sum(s["correct"] for s in lines if s["task"] == name) / sum(s["task"] == name for s in lines)
        for name in FAMILIES
    }


@click.command()
@click.option("--steps", default=4000, show_default=True)
@click.option("--seed", default=20, show_default=True)
@click.option("--per-family", default=100, show_default=True, help="test items of each family")
@click.option("--out", type=click.Path(path_type=Path), default=OUT)
def main(steps: int, seed: int, per_family: int, out: Path) -> None:
    """Train the embedded model and write it with its card."""
    torch.manual_seed(seed)
    rng = Random(seed + 1)
    items = stream(rng)
    # The tokenizer sees the words of the left-out families too (not their problems' numbers or answers),
    # so that the quickstart is about reasoning and not about spelling.
    texts = ["\n".join(m["content"] for m in conversation(next(items))) for _ in range(20_000)]
    texts += [i.prompt for i in make_items(NEW_TO_EMBEDDED, count_per_family=300, seed=seed)]
    tokenizer = train_tokenizer(texts)
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_local_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=512,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            sliding_window=None,
            router_aux_loss_coef=0.01,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    log = train(model, tokenizer, steps=steps, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    scores = score(out, per_family=per_family)
    load = expert_load(out, per_family=10)
    write_card(out, steps=steps, seed=seed, per_family=per_family, log=log, scores=scores, load=load)
    click.echo((out / "README.md").read_text())


def expert_load(folder: Path, *, per_family: int) -> dict[str, list[float]]:
    """Load entropy (normalised) and MaxVio of each layer on foundation test items, from the saved files."""
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    items = make_items(SUITES["foundation"], count_per_family=per_family, seed=1, split="test")
    texts = [tokenizer.apply_chat_template(conversation(i), tokenize=False) for i in items]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
    with RoutingRecorder(model) as recorder, torch.no_grad():
        model(**batch)
    counts_LE = recorder.trace().counts_GLE.sum(0)
    return {
        "entropy": [round(float(normalised_entropy(c)), 3) for c in counts_LE],
        "max_vio": [round(float(max_violation(c)), 3) for c in counts_LE],
    }


def write_card(
    out: Path,
    *,
    steps: int,
    seed: int,
    per_family: int,
    log: dict[str, float],
    scores: dict[str, float],
    load: dict[str, list[float]],
) -> None:
    """Write card.json (numbers) and README.md (the same numbers for people)."""
    weights = out / "model.safetensors"
    files = {p.name: p.stat().st_size for p in sorted(out.iterdir()) if p.name not in {"card.json", "README.md"}}
    config = json.loads((out / "config.json").read_text())
    parameters = sum(p.numel() for p in MixtralForCausalLM.from_pretrained(out).parameters())
    card = {
        "seed": seed,
        "steps": steps,
        **log,
        "parameters": parameters,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "files": files,
        "test_items_per_family": per_family,
        "accuracy": scores,
        "expert_load": load,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    known = "\n".join(f"| {n} | {FAMILIES[n].operation} | {scores[n]:.0%} |" for n in SUITES["foundation"])
    new = "\n".join(f"| {n} | {FAMILIES[n].operation} | {scores[n]:.0%} |" for n in NEW_TO_EMBEDDED)
    (out / "README.md").write_text(
        f"""# The embedded model

A Mixtral of {parameters:,} parameters ({config["num_hidden_layers"]} layers, hidden size {config["hidden_size"]}, {config["num_local_experts"]} experts of \
intermediate size {config["intermediate_size"]}, top-{config["num_experts_per_tok"]}), bfloat16, {sum(files.values()) / 2**20:.1f} MiB with its tokenizer. It exists to be
fine-tuned in a minute on a laptop: it reasons in writing about small numbers, orders, rules and objects, and knows nothing else.

- **Data**: problems generated by `moe_bench.tasks`, train split only (the split follows from an item's content hash), {len(SUITES["foundation"])} families,
  {log["tokens"]:,} tokens. No text from anywhere else. The {len(NEW_TO_EMBEDDED)} families of the quickstart were left out.
- **Training**: {steps:,} steps of about {TOKENS_PER_BATCH:,} tokens, seed {seed}, Muon for attention and experts and AdamW for the rest, peak learning rate {PEAK_LEARNING_RATE:g}, load balancing 0.01 per layer and
  z-loss 1e-4 on the executed routing; {log["seconds"]:,.0f} s on {torch.get_num_threads()} CPU threads; last training loss {log["final_loss"]:.4f} nats per token (prompt tokens weighing {PROMPT_WEIGHT:g}).
- **Expert load** on held-out items, layer by layer: normalised entropy {", ".join(f"{v:.3f}" for v in load["entropy"])}; MaxVio {", ".join(f"{v:.2f}" for v in load["max_vio"])}.
- **Rebuild**: `python packages/moe-train/scripts/build_embedded.py --steps {steps} --seed {seed}`. This card is written by that command; `card.json` has
  the same numbers, the environment and the checksum of the weights.
- **Licence**: Apache-2.0, like the code.

## Accuracy on {per_family} test items per family (greedy, exact answer)

Families it was trained on:

| family | operation | accuracy |
|---|---|---|
{known}

Families it has never seen (the quickstart teaches them):

| family | operation | accuracy |
|---|---|---|
{new}
"""
    )


if __name__ == "__main__":
    main()
