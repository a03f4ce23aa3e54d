"""Words that say how numbers beside them are to be taken."""

from __future__ import annotations

from fractions import Fraction

STOP = frozenset(
    {
        "and", "or", "of", "than", "less", "more", "fewer", "greater", "times", "twice", "half", "double", "triple", "plus",
        "minus", "divided", "multiplied", "by", "to", "from", "between", "if", "so", "then", "because", "since", "which", "where",
        "when", "is", "are", "was", "were", "equals", "equal", "squared", "cubed", "square", "cube", "dozen", "dozens", "hundred",
        "thousand", "million", "billion", "remainder", "mod", "modulo", "with", "left", "over", "but", "that", "this", "who", "it",
        "we", "he", "she", "they", "out", "not", "first", "second", "third", "quarter", "let", "there", "has", "have", "had",
        "also", "while", "after", "before", "up", "down", "next", "remaining", "add", "subtract", "multiply", "divide", "sum",
        "difference", "product", "quotient",
    }
)  # fmt: skip
"""Words that an expression does not run over: they may mean an operation, or begin a clause."""
UNITS = frozenset(
    {
        "pound", "pounds", "lb", "lbs", "ounce", "ounces", "oz", "ton", "tons", "gram", "grams", "kg", "kilogram", "kilograms",
        "foot", "feet", "ft", "inch", "inches", "yard", "yards", "mile", "miles", "meter", "meters", "km", "kilometer",
        "kilometers", "cm", "second", "seconds", "sec", "minute", "minutes", "min", "hour", "hours", "hr", "hrs", "day", "days",
        "week", "weeks", "month", "months", "year", "years", "decade", "cent", "cents", "dollar", "dollars", "penny", "pennies",
        "dime", "dimes", "nickel", "nickels", "quarter", "quarters", "gallon", "gallons", "quart", "quarts", "pint", "pints", "cup",
        "cups", "liter", "liters", "ml", "milliliters", "tablespoon", "tablespoons", "teaspoon", "teaspoons",
    }
)  # fmt: skip
"""Units of measures that come in several sizes."""
JOINS = frozenset(
    {
        "and", "plus", "minus", "times", "of", "x", "by", "over", "than", "less", "per", "divided", "multiplied", "dozen",
        "hundred", "thousand",
    }
)  # fmt: skip
"""Words behind which a number goes on with what stands before it."""
NOT_AFTER_IS = frozenset(
    {
        "less", "more", "times", "fewer", "greater", "than", "of", "out", "percent", "smaller", "larger", "older", "younger", "half",
    }
)  # fmt: skip
"""Words that make of "is 5 ..." another statement than a result."""
COUNTS = {
    word: Fraction(n)
    for n, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
"""Numbers as words."""
