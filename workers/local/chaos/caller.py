"""The caller of an endurance run: sends at the pace it is given, through whatever happens to the broker."""

import threading
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from typing import Self

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from workers.client import Client, Reply
from workers.errors import WaitableError
from workers.local.simulated.answers import AnswerSource, Prompt
from workers.reading import open_reader
from workers.settings import Settings
from workers.topics import describe_topics

APP = "chaos"
_CHECKER = "checker"
_POLL_MS = 20
_RETRY_S = 0.1


class Caller:
    """Submits prompts and takes their ends, in a thread of its own, while it is a context.

    Every other prompt asks for a dead letter where no LLM answers it, the rest for an error reply. No more
    than ``concurrency`` are without an end at any time, and no more are sent than ``allow`` lets it.
    """

    def __init__(
        self, settings: Settings, source: AnswerSource, prompts: Sequence[Prompt], *, concurrency: int
    ) -> None:
        self._settings = settings
        self._source = source
        self._waiting = list(reversed(prompts))
        self._concurrency = concurrency
        self._pace = (0.0, 0.0, 0.0, 0.0)
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._ended: set[str] = set()
        self._ended_at = time.monotonic()
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="chaos-caller", daemon=True)

    def allow(self, total: int, *, within_s: float = 0.0) -> None:
        """Let it have sent ``total`` prompts so many seconds from now, evenly until then."""
        now = time.monotonic()
        self._pace = (now, self._allowed(now), now + within_s, float(total))

    @property
    def sent(self) -> int:
        """Prompts sent so far."""
        with self._lock:
            return len(self._open) + len(self._ended)

    @property
    def ended(self) -> int:
        """Prompts of which a reply or a dead letter was seen."""
        with self._lock:
            return len(self._ended)

    @property
    def idle_s(self) -> float:
        """Seconds since a prompt ended last; raises what ended the caller itself."""
        if self._failed is not None:
            raise self._failed
        return time.monotonic() - self._ended_at

    def under_way(self) -> frozenset[str]:
        """Prompts that are sent and have no end yet."""
        with self._lock:
            return frozenset(self._open)

    def count_open(self, prompt_ids: Collection[str]) -> int:
        """How many of these have no end yet."""
        with self._lock:
            return len(self._open.intersection(prompt_ids))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            prefix = f"{self._settings.topic_prefix}dlq."
            names = [name for name in describe_topics(self._settings) if name.startswith(prefix)]
            letters = open_reader(self._settings, names)
            with closing(letters), Client(app=APP, settings=self._settings) as client:
                while not self._stop.is_set():
                    self._turn(client, letters)
        except BaseException as error:  # noqa: BLE001  # raised again where the run is watched
            self._failed = error

    def _turn(self, client: Client, letters: KafkaConsumer) -> None:
        try:
            self._send(client)
            replies = client.poll(timeout_ms=_POLL_MS)
            found = [record for records in letters.poll(timeout_ms=0).values() for record in records]
        except (KafkaError, WaitableError):
            self._stop.wait(_RETRY_S)  # the broker is one of the things that are broken
            return
        for reply in replies:
            self._take(client, reply)
        for letter in found:
            self._end((letter.key or b"").decode(errors="replace"))

    def _send(self, client: Client) -> None:
        allowed = int(self._allowed(time.monotonic()))
        while self._waiting and self.sent < allowed and len(self._open) < self._concurrency:
            prompt = self._waiting[-1]
            client.submit(
                prompt.text,
                prompt_id=prompt.prompt_id,
                on_failure="dead-letter" if len(self._waiting) % 2 else "reply",
            )
            self._waiting.pop()
            with self._lock:
                self._open.add(prompt.prompt_id)

    def _take(self, client: Client, reply: Reply) -> None:
        if not self._end(reply.prompt_id) or reply.error is not None:
            return  # seen before: what is twice on the topic is counted in the end
        score = self._source.grade(reply.prompt_id, reply.text)
        if reply.decision_id:
            client.feedback(reply, score=score, source=_CHECKER)

    def _end(self, prompt_id: str) -> bool:
        """Note that a prompt has ended; ``False`` where that was known, or the prompt is none of ours."""
        with self._lock:
            if prompt_id not in self._open:
                return False
            self._open.remove(prompt_id)
            self._ended.add(prompt_id)
            self._ended_at = time.monotonic()
            return True

    def _allowed(self, now: float) -> float:
        begun, before, by, total = self._pace
        if now >= by:
            return total
        return before + (total - before) * (now - begun) / (by - begun)
