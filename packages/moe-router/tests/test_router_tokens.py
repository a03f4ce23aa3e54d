"""Token types on sentences sorted by hand, and on tokenizers of three kinds."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from moe_router.tokens import LEXICAL, lexical_types, offsets_of, part_types, pieces, position_types

TEXT = "Tom has 3 apples and 12.5% more (not all) than Anna, so 2 + 7 = 9. Tom eats `x = 1` today."


def kinds(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for start, end, kind in pieces(text):
        found.setdefault(kind, []).append(text[start:end])
    return found


def test_a_sentence_by_hand() -> None:
    found = kinds(TEXT)
    assert found["numeral"] == ["3", "12.5%", "2", "7", "9"]
    assert found["operator"] == ["+", "="]
    assert found["bracket"] == ["(", ")"]
    assert found["connective"] == ["and", "so"]
    assert found["negation"] == ["not"]
    assert found["quantifier"] == ["more", "all"]
    assert found["name"] == ["Anna"]
    assert found["punctuation"] == [",", ".", "."]
    assert found["code"] == ["`x = 1`"]
    assert {"has", "apples", "than", "eats", "today"} <= set(found["word"])


def test_a_name_at_the_beginning_is_known_from_elsewhere() -> None:
    assert kinds("Then Ben paid. Ben left. The end.")["name"] == ["Ben", "Ben"]
    assert "name" not in kinds("The cat sat. However it left.")


def test_more_forms() -> None:
    found = kinds("\\frac{1}{2} \\leq x. She doesn't know; twenty men can't.\n```py\nif x: pass\n```")
    assert found["operator"] == ["\\frac", "\\leq"]
    assert found["negation"] == ["doesn't", "can't"]
    assert found["numeral"] == ["1", "2", "twenty"]
    assert found["code"] == ["```py\nif x: pass\n```"]


def test_pieces_have_no_gaps() -> None:
    for text in (TEXT, "", "  ", "a\tb\n\nÜber 5€ — ok 🙂", "`open"):
        cut = pieces(text)
        assert "".join(text[a:b] for a, b, _ in cut) == text


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, so that every character is at least one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(["<s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def test_tokens_take_the_type_of_their_text() -> None:
    tokenizer = byte_level()
    text = "<s>2+x, not ü"
    ids = tokenizer(text)["input_ids"]
    types = [LEXICAL[t] for t in lexical_types(text, offsets_of(tokenizer, text, ids))]
    assert types[:5] == ["special", "numeral", "operator", "word", "punctuation"]
    assert types[6:9] == ["negation"] * 3
    assert types[-2:] == ["word", "word"]  # two bytes of one letter
    assert len(types) == len(ids)


def test_a_tokenizer_without_offsets() -> None:
    tokenizer = byte_level()
    text = "if 12 > x then no"
    ids = tokenizer(text)["input_ids"]
    expected = lexical_types(text, offsets_of(tokenizer, text, ids))

    class Slow:
        is_fast = False
        all_special_ids = tokenizer.all_special_ids
        decode = staticmethod(tokenizer.decode)

    spaces = [c == " " for c in text]
    got = lexical_types(text, offsets_of(Slow(), text, ids))
    assert (got[~np.array(spaces)] == expected[~np.array(spaces)]).all()


def test_a_token_over_a_space_is_its_word() -> None:
    assert [LEXICAL[t] for t in lexical_types("a  not", [(0, 1), (1, 6), (1, 3)])] == ["word", "negation", "whitespace"]


@pytest.mark.parametrize(("length", "expected"), [(8, [0, 0, 1, 1, 2, 2, 3, 3]), (3, [0, 1, 2]), (0, [])])
def test_positions(length: int, expected: list[int]) -> None:
    assert position_types(length).tolist() == expected


def test_parts() -> None:
    assert part_types(2, 5).tolist() == [0, 0, 1, 1, 1]
