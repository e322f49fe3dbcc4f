"""The traffic: prompts in, replies graded, feedback out, and what a caller and an auditor see of it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from workers.client import Client, Reply
from workers.local.demo.options import Options
from workers.local.simulated.answers import AnswerSource, Prompt
from workers.reading import open_reader, read_all
from workers.settings import Settings
from workers.topics import Topics, describe_topics

#: A prompt without a reply for this long is lost.
_PATIENCE_SECONDS = 90.0
_POLL_MS = 20
#: The router is killed when this share of the prompts is answered.
_KILL_AT = 1 / 3
#: No more than this share is sent before the late LLM has joined, so that some is left for it.
_HOLD_AT = 3 / 4
_CHECKER = "checker"


@dataclass(slots=True, kw_only=True)
class Trace:
    """What was seen of one prompt; times are monotonic seconds."""

    submitted_at: float
    replied_at: float | None = None
    replies: int = 0
    llm: str = ""
    error: str | None = None
    score: float = 0.0
    cost_usd: float = 0.0
    #: Whether the late LLM could be chosen when this prompt was submitted.
    after_join: bool = False


@dataclass(slots=True)
class Tally:
    """The run so far, for whoever shows it."""

    total: int
    submitted: int = 0
    answered: int = 0
    feedback: int = 0
    graded: int = 0
    score: float = 0.0
    cost_usd: float = 0.0
    llms: Counter[str] = field(default_factory=Counter)


class Auditor:
    """Reads decisions and dead letters, committed ones alone, from the first on, in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        #: When the first decision on a prompt became visible, by prompt id.
        self.decided_at: dict[str, float] = {}
        self.decisions: Counter[str] = Counter()
        self._seen = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo-auditor", daemon=True)
        self._consumer = open_reader(settings, [self._topics.decisions])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def wait_for(self, prompt_ids: Collection[str], *, timeout_s: float) -> float:
        """Wait until all these are decided, and give when the last one was; ``TimeoutError`` otherwise."""
        with self._seen:
            if not self._seen.wait_for(lambda: self.decided_at.keys() >= set(prompt_ids), timeout_s):
                missing = len(set(prompt_ids) - self.decided_at.keys())
                raise TimeoutError(
                    f"{missing} of {len(prompt_ids)} prompts were not decided in {timeout_s} s"
                )
            return max(self.decided_at[prompt_id] for prompt_id in prompt_ids)

    def count_dead_letters(self) -> int:
        """Count what lies on all dead-letter topics now."""
        prefix = f"{self._settings.topic_prefix}dlq."
        names = [name for name in describe_topics(self._settings) if name.startswith(prefix)]
        return sum(1 for _ in read_all(self._settings, names))

    def _run(self) -> None:
        while not self._stop.is_set():
            for records in self._consumer.poll(timeout_ms=100).values():
                now = time.monotonic()
                with self._seen:
                    for record in records:
                        prompt_id = record.key.decode()
                        self.decisions[prompt_id] += 1
                        self.decided_at.setdefault(prompt_id, now)
                    self._seen.notify_all()


class Traffic:
    """One closed loop of prompts; ``run`` returns when every prompt is answered or given up."""

    def __init__(self, options: Options, source: AnswerSource, settings: Settings) -> None:
        self._options = options
        self._source = source
        self._settings = settings
        self.traces: dict[str, Trace] = {}
        self.seconds = 0.0
        #: Prompts that were sent while the late LLM was probed, and how long the rest waited for that.
        self.sent_while_probed = 0
        self.held_s = 0.0
        self._held_since: float | None = None
        self._joined = threading.Event()

    def run(
        self,
        prompts: Sequence[Prompt],
        *,
        join: Callable[[], None],
        disturb: Callable[[], None],
        show: Callable[[Tally], None],
    ) -> Tally:
        """Send ``prompts``; half-way ``join``, and with ``kill_router`` a third of the way ``disturb``.

        The last quarter is not sent before ``join`` has returned. What ``join`` raises ends the run.
        """
        tally = Tally(total=len(prompts))
        joining: Future[None] | None = None
        disturbed = not self._options.kill_router
        waiting = list(reversed(prompts))
        begun = last = time.monotonic()
        with (
            ThreadPoolExecutor(1, thread_name_prefix="demo-join") as pool,
            Client(app="demo", settings=self._settings) as client,
        ):
            while tally.answered < tally.total and time.monotonic() - last < _PATIENCE_SECONDS:
                while waiting and self._may_submit(tally):
                    self._submit(client, waiting.pop())
                    tally.submitted += 1
                for reply in client.poll(timeout_ms=_POLL_MS):
                    self._take(client, reply, tally)
                    last = time.monotonic()
                if joining is None and tally.answered * 2 >= tally.total:
                    joining = pool.submit(self._join, join, tally)
                if joining is not None and joining.done():
                    joining.result()
                if not disturbed and tally.answered >= tally.total * _KILL_AT:
                    disturb()
                    disturbed = True
                show(tally)
            self.seconds = time.monotonic() - begun
            client.flush()
            if joining is not None:
                joining.result()
        return tally

    def recount(self) -> None:
        """Count every reply that the reply topic holds, so that a second one to a prompt is seen."""
        counts = Counter(
            record.key.decode() for record in read_all(self._settings, [f"{self._settings.reply_prefix}demo"])
        )
        for prompt_id, trace in self.traces.items():
            trace.replies = counts[prompt_id]

    def _join(self, join: Callable[[], None], tally: Tally) -> None:
        before = tally.submitted
        join()
        self.sent_while_probed = tally.submitted - before
        if self._held_since is not None:
            self.held_s = time.monotonic() - self._held_since
        self._joined.set()

    def _may_submit(self, tally: Tally) -> bool:
        if tally.submitted >= tally.total * _HOLD_AT and not self._joined.is_set():
            self._held_since = self._held_since or time.monotonic()
            return False
        return tally.submitted - tally.answered < self._options.concurrency

    def _submit(self, client: Client, prompt: Prompt) -> None:
        self.traces[prompt.prompt_id] = Trace(submitted_at=time.monotonic(), after_join=self._joined.is_set())
        client.submit(prompt.text, prompt_id=prompt.prompt_id)

    def _take(self, client: Client, reply: Reply, tally: Tally) -> None:
        trace = self.traces[reply.prompt_id]
        if trace.replied_at is not None:
            return  # a second reply: ``recount`` finds it
        trace.replied_at = time.monotonic()
        trace.llm, trace.error = reply.llm, reply.error
        trace.cost_usd = reply.cost_usd or 0.0
        tally.answered += 1
        if reply.error is not None:
            return
        trace.score = self._source.grade(reply.prompt_id, reply.text)
        if reply.decision_id:  # a fallback's answer says nothing of the LLM that was decided on
            client.feedback(reply, score=trace.score, source=_CHECKER)
            tally.feedback += 1
        tally.score += trace.score
        tally.graded += 1
        tally.cost_usd += trace.cost_usd
        tally.llms[reply.llm] += 1
