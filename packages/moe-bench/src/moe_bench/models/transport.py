"""Requests to a server that may be busy: retried with patience, and given up in one line."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError

if TYPE_CHECKING:
    import httpx

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may pass when the request is made again."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
_LONGEST_ASKED = 600.0
"""Seconds of Retry-After that are waited for; a server that asks for more is given up."""


class Transport:
    """A connection to one server, shared by threads; what one of them learns of its limits holds for all."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        key_variable: str,
        connections: int,
        timeout: float,
        retries: int,
        per_minute: int | None,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise BenchError("server: needs httpx; pip install 'moe-bench[serve]'") from None
        self.url, self.retries = url, retries
        self._key, self._key_variable, self._timeout = key, key_variable, timeout
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx.Limits(max_connections=connections),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        self._pace = _Pace(per_minute)
        self._given_up = threading.Event()
        self._reached = False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def give_up(self) -> None:
        """Let requests that wait for their next attempt fail at once."""
        self._given_up.set()

    def post(self, path: str, body: dict[str, Any], *, what: str, model: str) -> httpx.Response:
        """Send a request until it is answered.

        Args:
            path: below the server's url.
            body: sent as JSON.
            what: is asked for, for messages.
            model: that is asked, for messages.

        Raises:
            BenchError: in one line, when it cannot succeed or has failed too often.
        """
        import httpx

        for attempt in range(self.retries + 1):
            self._wait(self._pace.turn())
            try:
                reply = self._client.post(self.url + path, json=body)
            except httpx.TransportError as error:
                why, asked = self._unreachable(error), None
                if isinstance(error, httpx.ConnectError) and not self._reached:
                    raise BenchError(why) from None  # nobody was ever there: no sense in trying again
                if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
                    raise BenchError(why) from None
            else:
                self._reached = True
                if reply.is_success:
                    return reply
                why = self._refused(reply, what, model)
                if reply.status_code not in _PASSING or _spent(reply):
                    raise BenchError(why)
                asked = _retry_after(reply)
                if asked is not None and asked > _LONGEST_ASKED:
                    raise BenchError(
                        f"{why}; it asks to wait {asked:.0f} s, longer than the {_LONGEST_ASKED:.0f} s that are waited"
                    )
                if reply.status_code in (429, 503) and asked is not None:
                    self._pace.pause(asked)
            if attempt < self.retries:
                # Full jitter around a doubling wait, so that requests that failed together do not come back together.
                longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
                self._wait(random.uniform(longest / 2, longest) if asked is None else asked + random.uniform(0, 0.1))
        raise BenchError(f"{why}; tried {self.retries + 1} times. The same command goes on where it was")

    def _wait(self, seconds: float) -> None:
        if self._given_up.wait(max(0.0, seconds)):
            raise BenchError("given up")

    def _unreachable(self, error: Exception) -> str:
        import httpx

        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return (
                f"server {self.url}: no answer within {self._timeout:g} s; give it longer, or fewer requests at a time"
            )
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return f"server {self.url}: cannot be reached ({self._hidden(str(error)) or type(error).__name__}); is it running there?"
        return f"server {self.url}: the connection broke ({self._hidden(str(error)) or type(error).__name__})"

    def _refused(self, reply: httpx.Response, what: str, model: str) -> str:
        said = self._hidden(_message(reply))
        status = f"server {self.url}: {reply.status_code}"
        if reply.status_code in (401, 403):
            have = (
                f"the key in {self._key_variable} is not accepted"
                if self._key
                else f"{self._key_variable} holds no key"
            )
            return f"{status} ({said}); {have}"
        if reply.status_code == 404:
            return f"{status} ({said}); does the address end with /v1, and is {model!r} the name the server uses (GET /v1/models)?"
        if reply.status_code == 429:
            return f"{status}, too many requests ({said}); lower --concurrency or set --per-minute"
        return f"{status} for {what} ({said})"

    def _hidden(self, text: str) -> str:
        text = " ".join(text.split())[:240]
        return text.replace(self._key, "***") if self._key else text


class _Pace:
    """When the next request may begin."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._begun: deque[float] = deque()
        self._not_before = 0.0
        self._lock = threading.Lock()

    def pause(self, seconds: float) -> None:
        """Let nothing begin for so long."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def turn(self) -> float:
        """Take the next place; the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            at = max(now, self._not_before)
            if self._per_minute is not None:
                if len(self._begun) >= self._per_minute:
                    at = max(at, self._begun[-self._per_minute] + 60.0)
                self._begun.append(at)
                while len(self._begun) > self._per_minute:
                    self._begun.popleft()
            return at - now


def _retry_after(reply: httpx.Response) -> float | None:
    """Seconds of the header, a number or a date (RFC 9110, section 10.2.3); None without one."""
    value = reply.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _message(reply: httpx.Response) -> str:
    """What the server says of an error, in any of the usual forms."""
    try:
        values = reply.json()
    except ValueError:
        return str(reply.text or reply.reason_phrase)
    error = values.get("error", values) if isinstance(values, dict) else values
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)


def _spent(reply: httpx.Response) -> bool:
    """Whether a 429 says that the account is empty, which no waiting mends."""
    return reply.status_code == 429 and "insufficient_quota" in reply.text
