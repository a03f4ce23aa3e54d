"""The ten operations, and the words that the examples are filled with."""

OPERATIONS = ("setup", "plan", "recall", "calculate", "transform", "deduce", "compare", "cases", "check", "conclude")
"""What a step of a solution does.

setup: restates givens, names variables, writes a condition as an equation. plan: says what comes next. recall: brings in a fact, formula
or rule. calculate: does arithmetic. transform: rearranges or simplifies an expression, converts units. deduce: applies a rule to premises,
follows a state. compare: orders or selects. cases: splits, enumerates, eliminates. check: verifies, backtracks.
conclude: states the answer.
"""
UNCERTAIN = "uncertain"


def letter_of(word: str) -> str:
    """The first letter of a word."""
    return word[:1]


_FACTS = (
    "the angles of a triangle add up to 180 degrees",
    "the sum of the first $n$ integers is $\\frac{n(n+1)}{2}$",
    "a number is divisible by 3 when its digits add up to a multiple of 3",
    "the diagonals of a rectangle have the same length",
    "vertical angles are equal",
    "the square of a real number is never negative",
    "the hypotenuse is the longest side of a right triangle",
    "$\\sin^2 x + \\cos^2 x = 1$",
    "the product of two negative numbers is positive",
    "there are 12 months in a year",
    "a regular hexagon has six equal sides",
    "parallel lines have the same slope",
    "the probability of an event lies between 0 and 1",
    "$i^2 = -1$",
    "$\\log(ab) = \\log a + \\log b$",
    "any integer greater than one is a product of primes",
    "the sum of two sides of a triangle is greater than the third",
    "an inscribed angle is half of the central angle on the same arc",
    "for non-negative numbers the arithmetic mean is at least the geometric mean",
    "the roots of $ax^2 + bx + c$ add up to $-\\frac{b}{a}$",
)
_FORMULAS = (
    "A = \\pi r^2",
    "V = \\frac{4}{3}\\pi r^3",
    "x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}",
    "a^2 + b^2 = c^2",
    "d = \\sqrt{(x_2 - x_1)^2 + (y_2 - y_1)^2}",
    "S = \\frac{n(a_1 + a_n)}{2}",
    "a_n = a_1 + (n - 1)d",
    "\\binom{n}{k} = \\frac{n!}{k!(n-k)!}",
    "a^2 - b^2 = (a - b)(a + b)",
    "\\sin 2x = 2 \\sin x \\cos x",
    "\\frac{a}{\\sin A} = \\frac{b}{\\sin B}",
    "P(A \\cup B) = P(A) + P(B) - P(A \\cap B)",
    "S = \\frac{a}{1 - r}",
    "distance = speed × time",
    "profit = revenue - cost",
    "\\frac{x + y}{2} \\geq \\sqrt{xy}",
)
_THEOREMS = (
    "Pythagorean theorem", "remainder theorem", "triangle inequality", "AM-GM inequality", "binomial theorem", "law of large numbers",
    "Cauchy-Schwarz inequality", "fundamental theorem of arithmetic", "inclusion-exclusion principle", "pigeonhole principle",
    "rational root theorem", "chain rule", "law of sines", "angle bisector theorem", "Fermat's little theorem", "multiplication principle",
)  # fmt: skip


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


WORDS: dict[str, tuple[str, ...]] = {
    "name": _list("Maya, Tom, Priya, Leo, Sofia, Omar, Hannah, Wei, Carlos, Nina, Jonas, Aisha, Ruth, Victor, Mei, Felix, Grace, Ivan, "
                  "Zoe, Samuel, the farmer, the teacher, her brother, the shop, the baker, Mr. Lund, Mrs. Okafor, she, he"),
    "thing": _list("apple, book, marble, ticket, cookie, pencil, card, shirt, chair, stamp, egg, flower, sandwich, lamp, coin, ball, "
                   "rope, bag, page, bottle, car, toy, fish, seat, guest, student, box, tree, shell, cake"),
    "unit": _list("minutes, hours, days, miles, kilometers, meters, feet, inches, liters, gallons, pounds, kilograms, dollars, cents, "
                  "degrees, square feet, weeks, pages, cups"),
    "quantity": _list("area, perimeter, total cost, speed, number of ways, price, height, length, radius, sum, profit, distance, "
                      "probability, average, remaining amount, discount, number of outcomes, weight, total time, volume, slope, width, "
                      "common difference, product, circumference, number of students, weekly salary, angle"),
    "var": _list("x, y, n, a, b, t, k, m, p, z, r, s, w, h, d, c"),
    "point": _list("A, B, C, D, M, O, P, X"),
    "shape": _list("circle, rectangle, triangle, sphere, cylinder, trapezoid, cone, square"),
    "colour": _list("red, blue, green, yellow, black, white, orange, purple, pink, brown"),
    "group": _list("dogs, painters, robots, singers, doctors, lizards, wolves, pilots, tulips, metals, numpuses, wumpuses, engineers, "
                   "cats, mammals, insects, poets"),
    "job": _list("thief, doctor, goalkeeper, pilot, baker, liar, winner, captain, teacher, lawyer"),
    "adj": _list("tiny, ancient, wooden, lovely, purple, Greek, round, huge, silly, steel"),
    "adjclass": _list("age, size, color, origin, material, opinion, shape, purpose"),
    "city": _list("Paris, Cairo, Lima, Oslo, Nairobi, Kyoto"),
    "country": _list("France, Egypt, Peru, Norway, Kenya, Japan"),
    "month": _list("January, March, June, October, December"),
    "w": _list("lantern, basket, cobalt, meadow, anchor, ribbon, turnip, orchid, velvet, hollow, island, jigsaw, kitten, napkin, pepper"),
    "optl": _list("A, B, C, D, E, F"),
    "fact": _FACTS,
    "formula": _FORMULAS,
    "theorem": _THEOREMS,
}  # fmt: skip
"""For every slot its words; `name2` and so on are other words of the same slot."""
