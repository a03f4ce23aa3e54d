"""Expressions in a process that can be killed: verdicts against sympy, limits, and what happens without the library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_bench.answers import judge, scorer_identity
from moe_bench.answers.expressions import ExpressionJudge, math_verify_version, shared_judge

with_library = pytest.mark.skipif(math_verify_version() is None, reason="the extra `math` is not installed")

# An integral that sympy does not finish: no closed form, no cheap numeric way.
_ENDLESS = r"$\int_0^1 \frac{\sin(x^x)}{x^x+\cos(x^5)} dx$"


@with_library
@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (r"\sqrt{8}", r"2\sqrt{2}", True), ("-1 + sqrt(3)", r"\sqrt{3} - 1", True), (r"\sqrt{\sqrt{2}}", "2**(1/4)", True),
        ("(x+1)^2", "x^2+2x+1", True), ("(x+1)^2", "x^2+1", False), (r"\frac{\pi}{2}", "pi/2", True), ("2, 1", "1, 2", True),
        (r"x \in [-2,7]", r"-2 \le x \le 7", True), ("3*6", "18", True), (r"\binom{5}{2}", "10", True), ("2^{2025}", "3^{2025}", False),
        ("x<2", "2>x", True), ("x<2", "x>2", False), (r"\{1,2,3\}", r"\{3,2,1\}", True), ("listen", "silent", False),
    ],
)  # fmt: skip
def test_expressions(answer: str, target: str, expected: bool) -> None:
    assert judge(answer, target, "expression").correct is expected


@with_library
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=3), st.integers(-9, 9), st.integers(1, 5))
def test_products_equal_their_expansion_and_no_other(roots: list[int], shift: int, scale: int) -> None:
    coefficients = [scale]
    for root in roots:  # times (x - root), by hand: independent of any computer algebra
        coefficients = [a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    degree = len(coefficients) - 1
    expanded = " + ".join(f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients))
    product = f"{scale}" + "".join(f"(x-({root}))" for root in roots)
    assert judge(product, expanded, "expression").correct
    assert judge(f"{product} + {shift}", expanded, "expression").correct is (shift == 0)


@with_library
def test_a_comparison_that_takes_too_long_is_cut_off_and_the_next_one_works() -> None:
    worker = ExpressionJudge(time_limit_s=0.5)
    assert worker.compare("$1/2$", "$0.5$").equal
    begun = time.monotonic()
    cut = worker.compare(_ENDLESS, r"$\frac{1}{7}$")
    assert (cut.equal, cut.timed_out, cut.error) == (False, True, "timed out")
    assert time.monotonic() - begun < 10
    # What is the same string, and would be equal, is not when it was cut off.
    deep = "$" + "(" * 3000 + "1" + ")" * 3000 + "$"
    same = worker.compare(deep, deep)
    assert not same.equal
    assert same.error
    assert worker.compare("$x+x$", "$2x$").equal
    assert worker.restarts == 2
    worker.close()


@with_library
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.floats(0.02, 0.2))
def test_what_timed_out_is_never_equal(power: int, limit: float) -> None:
    worker = ExpressionJudge(time_limit_s=limit)
    text = rf"$\int_0^1 \frac{{\sin(x^x)}}{{x^x+\cos(x^{power})}} dx$"
    for target, answer in ((text, text), ("$2x$", "$x+x$"), (text, r"$\frac{1}{7}$")):
        found = worker.compare(target, answer)
        assert not (found.timed_out and found.equal)
        assert not (found.error and found.equal)
    worker.close()


@with_library
def test_a_cut_off_comparison_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_judge(), "time_limit_s", 0.5)
    shared_judge().close()
    judged = judge(r"\frac{1}{7}", _ENDLESS, "expression")
    assert (judged.correct, judged.method, judged.timed_out) == (False, "undecided", True)
    shared_judge().close()


@with_library
def test_a_worker_that_was_killed_is_replaced() -> None:
    worker = ExpressionJudge()
    assert worker.compare("$1/2$", "$0.5$").equal
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert worker.compare("$1/2$", "$0.5$").equal
    worker.close()


@with_library
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of the operating system")
def test_a_worker_at_work_does_not_outlive_a_killed_parent() -> None:
    program = (
        "from moe_bench.answers.expressions import ExpressionJudge\n"
        "j = ExpressionJudge(time_limit_s=2)\n"
        "j.compare('$1$', '$1$')\n"
        "print(j._process.pid, flush=True)\n"
        f"j.compare({_ENDLESS!r}, '$1$')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 60
    while _alive(child):
        assert time.monotonic() < deadline, "the worker goes on without its parent"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_without_the_library_only_what_is_exact_is_decided() -> None:
    program = (
        "import sys\n"
        "sys.modules['math_verify'] = None\n"
        "from moe_bench.answers import judge, scorer_identity\n"
        "said = scorer_identity()\n"
        "assert said['math_verify'] is None and said['sympy'] is None, said\n"
        "assert judge('1/2', '0.5', 'expression').correct\n"
        "assert judge('(2/4, 1)', '(1/2, 1)', 'expression').correct\n"
        "assert judge(r'\\sqrt{8}', r'\\sqrt{8}', 'expression').correct\n"
        "left = judge(r'\\sqrt{8}', r'2\\sqrt{2}', 'expression')\n"
        "assert (left.correct, left.method) == (False, 'undecided'), left\n"
        "assert 'sympy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_scorer_says_what_it_is() -> None:
    said = scorer_identity()
    assert said["version"] == 2
    assert said["math_verify"] == math_verify_version()
    assert (said["time_limit_s"] is None) == (math_verify_version() is None)
