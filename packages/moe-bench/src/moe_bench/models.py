"""Answering with a Hugging Face model: greedy, in batches of similar length, the same whatever the batch.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moe_bench.errors import BenchError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class Answer(NamedTuple):
    """What a model wrote to one prompt."""

    position: int
    """Where the prompt stands in the list that was given."""
    text: str
    tokens: int
    """Tokens generated, the end token included."""
    ended: bool
    """Whether it ended by itself and was not cut at the limit."""


class HFModel:
    """A causal language model of transformers, PEFT-wrapped or not, with its tokenizer."""

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 32, max_new_tokens: int = 256
    ) -> None:
        """Use a model that is loaded already; its state is left as it was found.

        Args:
            model: on the device it is to run on.
            tokenizer: with a chat template, prompts are put as a user's turn; without, as they are.
            batch_size: prompts generated together.
            max_new_tokens: where an answer is cut.
        """
        if batch_size < 1 or max_new_tokens < 1:
            raise BenchError(f"batch_size {batch_size} and max_new_tokens {max_new_tokens} must be at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens

    @classmethod
    def load(
        cls, path: str | Path, *, adapter: str | Path | None = None, batch_size: int = 32, max_new_tokens: int = 256
    ) -> HFModel:
        """Load a model folder or hub id, with a PEFT adapter on it where given; bfloat16 on a GPU, float32 on a CPU.

        Raises:
            BenchError: when it cannot be loaded whole; see `moe_bench.pretrained`.
        """
        import torch

        from moe_bench.pretrained import load_pretrained

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model, tokenizer = load_pretrained(path, dtype=dtype)
        if adapter is not None:
            if not (Path(adapter) / "adapter_config.json").is_file():
                raise BenchError(f"adapter {adapter}: no adapter_config.json in it, so it is not a PEFT adapter")
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter))
            if dtype == torch.float32:  # exact to rounding, and each token is spared building the update again
                model = model.merge_and_unload()
        return cls(model.to(device), tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens)

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on, for the run's header."""
        parameter = next(self.model.parameters())
        return {
            "decoding": "greedy",
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
            "chat_template": self.tokenizer.chat_template is not None,
        }

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt as the model is asked it."""
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(prompt)["input_ids"])
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, prompts: Sequence[str]) -> Iterator[list[Answer]]:
        """Greedy answers to the prompts, a batch at a time, shortest prompts first."""
        import torch

        encoded = [self.encode(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), i))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        if pad is None:
            raise BenchError(
                "tokenizer: has neither a padding nor an end token; set pad_token in tokenizer_config.json"
            )
        device = next(self.model.parameters()).device
        with _generating(self.model):
            for begin in range(0, len(order), self.batch_size):
                indices = order[begin : begin + self.batch_size]
                rows = [encoded[i] for i in indices]
                width = max(map(len, rows))
                # Padding goes on the left, where generation does not continue from.
                ids_BS = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
                mask_BS = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
                with torch.inference_mode():
                    out_BS = self.model.generate(  # type: ignore[operator]
                        input_ids=ids_BS,
                        attention_mask=mask_BS,
                        max_new_tokens=self.max_new_tokens,
                        do_sample=False,
                        temperature=None,
                        top_p=None,
                        top_k=None,
                        num_beams=1,
                        use_cache=True,
                        pad_token_id=pad,
                    )
                yield [self._read(i, out_S[width:]) for i, out_S in zip(indices, out_BS, strict=True)]

    def _read(self, index: int, new_S: torch.Tensor) -> Answer:
        ends = _end_ids(self.model, self.tokenizer)
        ids = new_S.tolist()
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        kept = ids if stop is None else ids[:stop]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        assert isinstance(text, str)
        return Answer(index, text.strip(), len(kept) + (stop is not None), stop is not None)


def _end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    ids = model.generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return {i for i in [*listed, tokenizer.eos_token_id] if i is not None}


@contextmanager
def _generating(model: Any) -> Iterator[None]:
    """Evaluation mode with the key-value cache on, then everything as it was."""
    training, cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        yield
    finally:
        model.config.use_cache = cache
        model.train(training)
