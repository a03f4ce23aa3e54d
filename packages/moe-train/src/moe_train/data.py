"""From a JSONL file to padded tensors: reading, pairing, splitting by content, tokenising, collating.

Shapes: B samples of a batch, S tokens of the longest of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from moe_train.errors import TrainError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token on which there is no loss."""

# The prompt and completion columns of the formats in use, in the order they are tried.
_PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("instruction", "response"))

Message = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One prompt and the completion to learn."""

    prompt: tuple[Message, ...]
    """The messages up to the completion, the last of them the user's."""
    completion: str
    task: str
    """What kind of problem it is, for accounts by task; empty where the data does not say."""
    source: str
    """Where it was read, `file:line`, for messages."""

    @property
    def id(self) -> str:
        """Hash of the content, sha256 in 16 hex digits; white space around a message does not count."""
        parts = [f"{m['role']}\0{m['content'].strip()}" for m in self.prompt] + [self.completion.strip()]
        return hashlib.sha256("\1".join(parts).encode()).hexdigest()[:16]

    @property
    def prompt_id(self) -> str:
        """Hash of the prompt alone: the same question with another answer is still the same question."""
        return prompt_id(self.prompt)


def prompt_id(messages: Iterable[Message]) -> str:
    """Hash of a prompt's turns, sha256 in 16 hex digits; system messages and white space around a turn do not count."""
    turns = [f"{m['role']}\0{m['content'].strip()}" for m in messages if m["role"] != "system"]
    return hashlib.sha256("\1".join(turns).encode()).hexdigest()[:16]


def format_instruction(values: Mapping[str, Any], prompt_key: str) -> str:
    """The user's turn of a prompt/completion record; an Alpaca `input` follows the instruction after an empty line."""
    text = str(values[prompt_key])
    extra = values.get("input") if prompt_key == "instruction" else None
    return f"{text}\n\n{extra}" if extra else text


def format_response(values: Mapping[str, Any], completion_key: str) -> str:
    """The assistant's turn of a prompt/completion record."""
    return str(values[completion_key])


def load_records(path: Path, *, system: str | None = None) -> list[Record]:
    """Every record of a JSONL file.

    A line is an object with `prompt` and `completion` (or `question`/`answer`, `instruction`/`output`), or with `messages`
    that end in an assistant's turn; `task` is optional.

    Raises:
        TrainError: naming the file and line, for a missing or empty file, a malformed line or a record without the fields.
    """
    if path.is_dir():
        raise TrainError(f"data {path}: is a folder; name a JSONL file in it")
    if not path.is_file():
        raise TrainError(f"data {path}: no such file")
    records = []
    try:
        with path.open(encoding="utf-8-sig") as file:  # some editors begin a file with a byte-order mark
            for number, line in enumerate(file, start=1):
                if line.strip():
                    records.append(_record(_object(line, f"{path}:{number}"), f"{path}:{number}", system))
    except UnicodeDecodeError as error:
        raise TrainError(f"data {path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    if not records:
        raise TrainError(f"data {path}: holds no record")
    return records


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainError(
            f"data {where}: not JSON ({error.msg} at column {error.colno}); one object to a line"
        ) from None
    if not isinstance(values, dict):
        raise TrainError(f"data {where}: expected an object, found a {type(values).__name__}")
    return values


def _record(values: dict[str, Any], where: str, system: str | None) -> Record:
    task = str(values.get("task", ""))
    if "messages" in values:
        return _chat_record(values["messages"], task, where, system)
    for prompt_key, completion_key in _PAIRS:
        if prompt_key in values and completion_key in values:
            for key in (prompt_key, completion_key):
                if not isinstance(values[key], str) or not values[key].strip():
                    raise TrainError(f"data {where}: {key} must be text that is not empty, found {values[key]!r}")
            turn = {"role": "user", "content": format_instruction(values, prompt_key)}
            prompt = _with_system([turn], system)
            return Record(prompt=prompt, completion=format_response(values, completion_key), task=task, source=where)
    pairs = ", ".join("/".join(pair) for pair in _PAIRS)
    raise TrainError(f"data {where}: has {', '.join(values) or 'no fields'}; needs messages, or a pair of {pairs}")


def _chat_record(messages: Any, task: str, where: str, system: str | None) -> Record:
    if not isinstance(messages, list) or len(messages) < 2:
        raise TrainError(f"data {where}: messages must be a list of at least a user's and an assistant's turn")
    for i, message in enumerate(messages):
        role_ok = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not role_ok or not isinstance(message.get("content"), str) or not message["content"].strip():
            raise TrainError(f"data {where}: messages[{i}] needs a role and a content that is text and not empty")
    if messages[-1]["role"] != "assistant":
        raise TrainError(f"data {where}: the last message is the {messages[-1]['role']}'s; it must be the assistant's")
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    return Record(prompt=_with_system(turns[:-1], system), completion=turns[-1]["content"], task=task, source=where)


def _with_system(turns: list[Message], system: str | None) -> tuple[Message, ...]:
    if system is None or turns[0]["role"] == "system":
        return tuple(turns)
    return ({"role": "system", "content": system}, *turns)


class Split(NamedTuple):
    """A division of the records that depends on nothing but their content."""

    train: list[Record]
    held_out: list[Record]
    duplicates: int
    """Records dropped because an earlier one had the same content."""


def split_records(records: Sequence[Record], *, held_out: float) -> Split:
    """Divide the records by the hash of their prompt, so that no question stands on both sides.

    Args:
        records: in any order; the division does not depend on it.
        held_out: share of the prompts to hold out; they come out in the order of their hashes, which is as good as random.

    Raises:
        TrainError: when either side comes out empty.
    """
    unique = {record.id: record for record in records}
    train: list[Record] = []
    out: list[Record] = []
    for record in unique.values():
        (out if int(record.prompt_id, 16) < held_out * 16**16 else train).append(record)
    out.sort(key=lambda record: record.prompt_id)
    if not train or not out:
        raise TrainError(
            f"data: {len(unique)} distinct records leave {len(train)} for training and {len(out)} held out; "
            "give more records or change data.held_out"
        )
    return Split(train=train, held_out=out, duplicates=len(records) - len(unique))


class Sample(NamedTuple):
    """A tokenised record."""

    ids: list[int]
    prompt_length: int
    """Tokens before the completion: no loss is taken on them."""
    record: Record

    @property
    def completion_tokens(self) -> int:
        """Tokens the loss is taken on, the end-of-turn token included."""
        return len(self.ids) - self.prompt_length


def tokenise(
    records: Iterable[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    too_long: Literal["error", "drop"] = "error",
) -> tuple[list[Sample], int]:
    """The records as token ids with the model's own chat template, and how many were dropped as too long.

    Raises:
        TrainError: for a sample over `max_length` when `too_long` is "error", naming its line and both numbers; for a
            template whose prompt is not the beginning of the whole conversation.
    """
    samples, dropped = [], 0
    for record in records:
        sample = _tokenise_one(record, tokenizer)
        if len(sample.ids) > max_length:
            if too_long == "error":
                raise TrainError(
                    f"data {record.source}: {len(sample.ids)} tokens, over data.max_length={max_length}; "
                    "raise it, shorten the sample, or set data.too_long=drop"
                )
            dropped += 1
            continue
        samples.append(sample)
    if not samples:
        raise TrainError(f"data: all {dropped} samples are over data.max_length={max_length} tokens; raise it")
    return samples, dropped


def _tokenise_one(record: Record, tokenizer: PreTrainedTokenizerBase) -> Sample:
    if tokenizer.chat_template is None:
        # A base model: plain text, ended by its end-of-text token.
        prompt_text = "\n\n".join(m["content"] for m in record.prompt) + "\n\n"
        prompt = tokenizer(prompt_text)["input_ids"]
        if tokenizer.eos_token_id is not None and prompt[-1:] == [tokenizer.eos_token_id]:
            prompt = prompt[:-1]
        completion = tokenizer(record.completion, add_special_tokens=False)["input_ids"]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return Sample([*prompt, *completion, *end], len(prompt), record)
    turns = list(record.prompt)
    prompt_text = _written(turns, record, tokenizer, add_generation_prompt=True)
    whole_text = _written([*turns, {"role": "assistant", "content": record.completion}], record, tokenizer)
    if not whole_text.startswith(prompt_text):
        raise TrainError(
            f"data {record.source}: the chat template writes the prompt differently when an answer follows, so the completion "
            "cannot be told from it; use a template whose generation prompt is a prefix of the conversation"
        )
    # Tokenised apart: a merge across the border would put tokens in training that generation never sees.
    prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    completion = tokenizer(whole_text[len(prompt_text) :], add_special_tokens=False)["input_ids"]
    return Sample([*prompt, *completion], len(prompt), record)


def _written(
    turns: list[Message], record: Record, tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool = False
) -> str:
    """The turns as the model's chat template writes them; Mixtral's, for one, refuses turns that do not alternate."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise TrainError(
            f"data {record.source}: the model's chat template refuses the turns {roles} ({' '.join(str(error).split())}); "
            "change the record, or the template"
        ) from None
    assert isinstance(text, str)
    return text


class Batch(NamedTuple):
    """Padded samples."""

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    labels_BS: Tensor
    """The ids, with IGNORED on prompts and padding; not shifted."""
    lengths_B: list[int]

    @property
    def completion_tokens(self) -> int:
        """Tokens the loss is taken on (the first token of a row can not be predicted)."""
        return int((self.labels_BS[:, 1:] != IGNORED).sum())


def collate(samples: Sequence[Sample], *, pad_id: int) -> Batch:
    """Pad on the right to the longest sample; the loss covers the completions alone."""
    import torch

    width = max(len(sample.ids) for sample in samples)
    ids_BS = torch.full((len(samples), width), pad_id)
    labels_BS = torch.full((len(samples), width), IGNORED)
    mask_BS = torch.zeros((len(samples), width), dtype=torch.long)
    for row, sample in enumerate(samples):
        ids = torch.tensor(sample.ids)
        ids_BS[row, : len(ids)] = ids
        mask_BS[row, : len(ids)] = 1
        labels_BS[row, sample.prompt_length : len(ids)] = ids[sample.prompt_length :]
    return Batch(ids_BS, mask_BS, labels_BS, [len(sample.ids) for sample in samples])


def micro_batches(samples: Sequence[Sample], *, max_tokens: int) -> list[list[Sample]]:
    """Divide a batch so that none holds more than `max_tokens` padded tokens, similar lengths together.

    A single sample over the budget is a micro-batch of its own: samples are never cut.
    """
    groups: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: len(s.ids)):
        if groups and (len(groups[-1]) + 1) * len(sample.ids) <= max_tokens:
            groups[-1].append(sample)
        else:
            groups.append([sample])
    return groups


def batch_indices(count: int, *, batch_size: int, step: int, seed: int) -> list[int]:
    """Which samples make the batch of a step (from 0): a new permutation every epoch, and a function of its arguments alone.

    A resumed run therefore sees the same batches without any loader state. The last batch of an epoch is filled from the next.
    """
    import torch

    def order(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(count, generator=generator).tolist()

    epoch, offset = divmod(step * batch_size, count)
    indices: list[int] = []
    while len(indices) < batch_size:
        indices += order(epoch)[offset : offset + batch_size - len(indices)]
        epoch, offset = epoch + 1, 0
    return indices
