"""Names and things that levelled problems are told with, and how they stand in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

PEOPLE = (
    "Ada", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hana", "Ivan", "Julia", "Kofi", "Lena", "Marco", "Nadia", "Oscar", "Petra",
    "Quinn", "Rosa", "Sami", "Tara", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
COUNTED = (
    "pens", "cups", "books", "apples", "stamps", "shells", "cards", "eggs", "rings", "beads", "keys", "nuts", "coins", "candles",
    "buttons", "marbles", "stickers", "lemons", "plates", "spoons",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "pink", "brown", "yellow", "orange", "purple", "grey", "silver")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def listed(parts: Sequence[str], *, last: str = "and") -> str:
    """The parts in one phrase: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def counted(number: int, things: str) -> str:
    """A number of things, in the singular for one: "1 egg", "3 eggs"."""
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def once(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]
