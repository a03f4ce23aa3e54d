"""Texts that are nearly the same, among many.

Shingles of three words; MinHash signatures in bands find the candidates (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3), and their Jaccard index is then counted exactly.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

WORDS, HASHES, BANDS = 3, 96, 32
"""Bands of three hashes: two texts whose index is 0.7 are candidates with probability 1 - (1 - 0.7³)³² > 0.9999, at 0.5 with 0.986."""
_PRIME = 4_294_967_311
"""The first one above 2^32, so that every product is wrapped many times."""
_LARGEST_BUCKET = 200
_WORD = re.compile(r"\w+|[^\w\s]")


def plain(text: str) -> str:
    """A text without case and with single spaces."""
    return " ".join(text.casefold().split())


def template(text: str) -> str:
    """A text with every number made the same."""
    return re.sub(r"\d+(?:[.,]\d+)*", "#", plain(text))


def shingles(text: str) -> frozenset[int]:
    """The hashes of every three words in a row; of the whole where there are fewer."""
    words = _WORD.findall(plain(text))
    parts = [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]
    return frozenset(zlib.crc32(part.encode()) for part in parts)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Size of the intersection by that of the union."""
    return len(a & b) / len(a | b) if a or b else 1.0


def signatures(sets: Sequence[frozenset[int]]) -> np.ndarray:
    """MinHash signatures, [texts, hashes]."""
    rng = np.random.default_rng(0)
    a = rng.integers(1, 1 << 31, HASHES, dtype=np.uint64)
    b = rng.integers(0, 1 << 31, HASHES, dtype=np.uint64)
    found = np.empty((len(sets), HASHES), dtype=np.uint64)
    for row, values in enumerate(sets):
        x = np.fromiter(values, dtype=np.uint64, count=len(values))
        # Products stay below 2^63: shingles are 32 bits and the multipliers 31.
        found[row] = ((x[:, None] * a + b) % np.uint64(_PRIME)).min(axis=0)
    return found


def near_pairs(
    texts: Sequence[str], *, threshold: float, others: Sequence[str] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Pairs of texts whose Jaccard index reaches a threshold, each once: (i, j, index) with i < j, or i of `texts` and j of `others`.

    Pairs that are equal but for case and spaces are left out: they are duplicates, not near ones.
    """
    every = [*texts, *(others or ())]
    sets, plains = [shingles(text) for text in every], [plain(text) for text in every]
    signed = signatures(sets)
    seen: set[tuple[int, int]] = set()
    width, border = HASHES // BANDS, len(texts)
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row in range(len(every)):
            buckets[signed[row, band * width : (band + 1) * width].tobytes()].append(row)
        for rows in buckets.values():
            for i, j in combinations(rows[:_LARGEST_BUCKET], 2):
                across = i < border <= j
                if (i, j) in seen or plains[i] == plains[j] or (others is not None and not across):
                    continue
                seen.add((i, j))
                index = jaccard(sets[i], sets[j])
                if index >= threshold:
                    yield i, j - (border if others is not None else 0), index
