"""The process that compares expressions with math-verify. It is run as a file, needs nothing of this package, and may be killed.

It reads one JSON object a line, `{"target": str, "answer": str, "options": {...}}`, and answers with one:
`{"equal": bool, "parsed": [target, answer]}`, or `{"error": str}`. Its limits are set by its arguments: seconds of processor time
for one comparison, bytes of memory.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from typing import Any


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit alone holds
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _set_timer(seconds: float) -> None:
    # The signal's default action ends the process, whatever it is computing; no handler of Python's could break into one long
    # operation. It also ends a worker whose parent is gone. Processor time, not wall time: the same verdict on a busy machine.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _parse(text: str, options: dict[str, Any]) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    known = {"latex": LatexExtractionConfig, "expr": ExprExtractionConfig}
    configs = [known[name]() for name in options.get("notations", ("latex", "expr"))]
    found: list[Any] = parse(text, extraction_config=configs, parsing_timeout=None)
    return found


def _compare(target: str, answer: str, options: dict[str, Any]) -> dict[str, Any]:
    from math_verify import verify

    wanted, given = _parse(target, options), _parse(answer, options)
    equal = verify(
        wanted,
        given,
        float_rounding=options.get("float_rounding", 6),
        strict=options.get("strict", True),
        allow_set_relation_comp=options.get("set_relation", False),
        timeout_seconds=None,
    )
    return {"equal": bool(equal), "parsed": [_is_parsed(wanted), _is_parsed(given)]}


def _is_parsed(found: list[Any]) -> bool:
    return any(not isinstance(expression, str) for expression in found)


def main(cpu_seconds: float, memory: int) -> None:
    """Answer until standard input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints gets between the replies
    logging.disable(logging.WARNING)
    import math_verify

    _limit_memory(memory)
    replies.write(json.dumps({"ready": math_verify.__name__}) + "\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        _set_timer(cpu_seconds)
        try:
            reply = _compare(request["target"], request["answer"], request["options"])
        except (Exception, RecursionError, MemoryError) as error:  # noqa: BLE001 - what a parser raises on a model's text is open
            reply = {"error": type(error).__name__}
        _set_timer(0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
