"""Answering with a Hugging Face model, in batches, each answer the same whatever the batch up to rounding.

Shapes: B batch, S sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError
from moe_bench.models.base import Answer, Request, Sampling, Turn, as_text
from moe_bench.models.stopping import answer_end, find_cut
from moe_bench.observers import NOBODY, Watch

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from moe_bench.models.decode import Decoder, Row

_PENALTIES = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "suppress_tokens",
    "bad_words_ids",
)
"""What a model's generation_config.json may ask for that changes which token is the likeliest; not applied, but recorded."""


class HFModel:
    """A causal language model of transformers, PEFT-wrapped or not, with its tokenizer."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
        chat_template: bool = True,
    ) -> None:
        """Use a model that is loaded already; its state is left as it was found.

        Args:
            model: on the device it is to run on.
            tokenizer: with a chat template, prompts are put as a user's turn; without, as they are.
            batch_size: answers generated together, at most.
            max_new_tokens: where an answer is cut; for everything else that can be said of it, give `sampling` instead.
            sampling: how answers are drawn and where they end; greedy by default.
            chat_template: False puts prompts as they are although there is a template.
        """
        if batch_size < 1 or max_new_tokens < 1:
            raise BenchError(f"batch_size {batch_size} and max_new_tokens {max_new_tokens} must be at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = batch_size
        self.sampling = sampling or Sampling(max_new_tokens=max_new_tokens)
        self.chat_template = chat_template and tokenizer.chat_template is not None
        self._line_breaks: dict[int, bool] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        adapter: str | Path | None = None,
        batch_size: int = 32,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
        chat_template: bool = True,
        dtype: str | None = None,
        device: str | None = None,
    ) -> HFModel:
        """Load a model folder or hub id, with a PEFT adapter on it where given.

        Args:
            path: folder or hub id.
            adapter: folder of the adapter.
            batch_size: see the class.
            max_new_tokens: see the class.
            sampling: see the class.
            chat_template: see the class.
            dtype: of the weights: bfloat16, float16 or float32; by default bfloat16 on a GPU and float32 on a CPU.
            device: of torch; by default the first GPU, or the CPU.

        Raises:
            BenchError: when it cannot be loaded whole; see `moe_bench.pretrained`.
        """
        import torch

        from moe_bench.pretrained import load_pretrained

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
        if dtype is not None and dtype not in known:
            raise BenchError(f"dtype {dtype!r} is not one of {', '.join(known)}")
        kind = known[dtype] if dtype else torch.float32 if device == "cpu" else torch.bfloat16
        model, tokenizer = load_pretrained(path, dtype=kind)
        if adapter is not None:
            if not (Path(adapter) / "adapter_config.json").is_file():
                raise BenchError(f"adapter {adapter}: no adapter_config.json in it, so it is not a PEFT adapter")
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter))
            if kind == torch.float32:  # exact to rounding, and each token is spared building the update again
                model = model.merge_and_unload()
        return cls(
            model.to(device),
            tokenizer,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            chat_template=chat_template,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on, for the run's header."""
        parameter = next(self.model.parameters())
        generation = self._own_settings()
        revision = getattr(getattr(self.model, "config", None), "_commit_hash", None)
        return {
            **self.sampling.settings,
            "batch_size": self.batch_size,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
            "chat_template": self.chat_template,
            **({"template_hash": _hash(str(self.tokenizer.chat_template))} if self.chat_template else {}),
            **({"not_applied": generation} if generation else {}),
            **({"revision": revision} if revision else {}),
        }

    def _own_settings(self) -> dict[str, Any]:
        config = getattr(self.model, "generation_config", None)
        found = {name: getattr(config, name, None) for name in _PENALTIES}
        return {k: v for k, v in found.items() if v not in (None, 0, 1, 1.0, [])}

    def encode(self, prompt: str | Request) -> list[int]:
        """Token ids of a prompt as the model is asked it."""
        turns = Request.of(prompt).turns
        if not self.chat_template:
            return list(self.tokenizer(as_text(turns))["input_ids"])
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # noqa: BLE001 - a template is a program of its own and may raise anything
            roles = ", ".join(dict.fromkeys(turn.role for turn in turns))
            raise BenchError(
                f"chat template: does not take turns of {roles} ({' '.join(str(error).split())})"
            ) from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, requests: Sequence[str | Request], watch: Watch = NOBODY) -> Iterator[list[Answer]]:
        """Answers, some at a time, longest prompts first (so that what does not fit in memory fails at once).

        Raises:
            BenchError: for a prompt longer than the model reads, or a model or tokenizer that cannot be generated with.
        """
        import torch

        asked = [Request.of(request) for request in requests]
        rows = self._rows(asked)
        with _generating(self.model), torch.inference_mode():
            decoder = self._decoder()
            if not decoder.supported:
                yield from self._generated(rows, decoder.pad)
                return
            if not watch:
                for done in decoder.run(rows, together=not decoder.flexible):
                    yield [self._read(row) for row in done]
                return
            # What is observed is told apart by group, and counted for whole batches.
            rows.sort(key=lambda row: asked[row.position].group)
            for group, members in groupby(rows, key=lambda row: asked[row.position].group):
                with watch.group(group or "all"):
                    for done in decoder.run(list(members), together=True, watch=watch):
                        yield [self._read(row) for row in done]

    def _decoder(self) -> Decoder:
        from moe_bench.models.decode import Decoder

        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        if not isinstance(pad, int):
            raise BenchError(
                "tokenizer: has neither a padding nor an end token; set pad_token in tokenizer_config.json"
            )
        return Decoder(
            self.model,
            pad=pad,
            batch_size=self.batch_size,
            finished=self._finisher(),
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
        )

    def _rows(self, requests: Sequence[Request]) -> list[Row]:
        from moe_bench.models.decode import Row
        from moe_bench.models.sampling import Draws

        limit = self._context
        series: dict[tuple[Turn, ...], int] = {}
        rows = []
        for position, request in enumerate(requests):
            ids = self.encode(request)
            if not ids or (limit is not None and len(ids) >= limit):
                raise BenchError(
                    f"item {request.item or position}: its prompt has {len(ids)} tokens, the model reads 1 to {(limit or 2) - 1} "
                    "and an answer; use fewer worked examples or leave it out"
                )
            draws = Draws(request.seed) if self.sampling.temperature else None
            number = series.setdefault(request.turns[:-1], len(series))
            rows.append(Row(position=position, ids=ids, series=number, draws=draws))
        longest = [max(len(row.ids) for row in rows if row.series == number) for number in range(len(series))]
        return sorted(rows, key=lambda row: (-longest[row.series], row.series, -len(row.ids), row.ids, row.position))

    @property
    def _context(self) -> int | None:
        """Positions the model was made for, where its config says."""
        config = getattr(self.model, "config", None)
        if config is not None and hasattr(config, "get_text_config"):
            config = config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 1 else None

    def _finisher(self) -> Any:
        ends, sampling, context = _end_ids(self.model, self.tokenizer), self.sampling, self._context
        tail = max(map(len, sampling.stop), default=0) + 8

        def finished(row: Row) -> str:
            token = row.new[-1]
            if token in ends:
                return "end"
            if sampling.stop and any(s in self._decode(row.new[-tail:]) for s in sampling.stop):
                return "stop"
            if sampling.stop_on_answer and self._breaks_line(token) and answer_end(self._decode(row.new)) is not None:
                return "answer"
            full = context is not None and len(row.ids) + len(row.new) >= context
            return "length" if full or len(row.new) >= sampling.max_new_tokens else ""

        return finished

    def _breaks_line(self, token: int) -> bool:
        if token not in self._line_breaks:
            self._line_breaks[token] = "\n" in self._decode([token])
        return self._line_breaks[token]

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _read(self, row: Row) -> Answer:
        kept = row.new[:-1] if row.finish == "end" else row.new
        text, finish = self._decode(kept), row.finish
        cut = find_cut(text, stop=self.sampling.stop, on_answer=self.sampling.stop_on_answer)
        if cut is not None:
            text, finish = text[: cut.at], cut.why if finish == "length" else finish
        return Answer(row.position, text.strip(), len(row.new), finish != "length", finish)

    def _generated(self, rows: Sequence[Row], pad: int) -> Iterator[list[Answer]]:
        """With transformers' own `generate`, for models that are called in a way of their own (Mamba)."""
        import torch

        from moe_bench.models.decode import refuse_unsupported

        refuse_unsupported(self.model, bool(self.sampling.temperature))
        device, finished = next(self.model.parameters()).device, self._finisher()
        for begin in range(0, len(rows), self.batch_size):
            batch = rows[begin : begin + self.batch_size]
            width = max(len(row.ids) for row in batch)
            ids_BS = torch.tensor([[pad] * (width - len(row.ids)) + row.ids for row in batch], device=device)
            mask_BS = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in batch], device=device)
            out_BS = self.model.generate(  # type: ignore[operator]
                input_ids=ids_BS,
                attention_mask=mask_BS,
                max_new_tokens=self.sampling.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                num_beams=1,
                use_cache=True,
                pad_token_id=pad,
            )
            for row, new_S in zip(batch, out_BS[:, width:].tolist(), strict=True):
                for token in new_S:
                    row.new.append(token)
                    row.finish = finished(row)
                    if row.finish:
                        break
            yield [self._read(row) for row in batch]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
