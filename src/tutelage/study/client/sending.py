"""A wave of requests under way: who goes when, what is sent again, when to give up.

a reply                     stored, also one without a usable text (its fault is told instead)
too long for the model      a fault of that request, stored
a failed sending            again after a pause that grows or that the endpoint asks for, with another seed
`tries` failures            where others were answered meanwhile: a fault of that request, stored;
                            where none was, the endpoint is down: a UserError, and the next run asks again
no key, no such model, ...  a UserError
Ctrl-C                      nothing new is sent, what is under way is waited for; a second one drops it
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint
from tutelage.base.progress import Tracker, console, duration, human
from tutelage.base.stopping import Stop
from tutelage.base.types import Json
from tutelage.study.client.budget import BYTES_A_TOKEN, Ledger, Spending, worst_case
from tutelage.study.client.client import Answer, Message, Request
from tutelage.study.client.endpoint import Failed, NeverAnswered, Reply
from tutelage.study.client.store import Store, answer_line
from tutelage.study.settings import TeacherSettings

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds, where an endpoint does not say how long to wait; doubled after each failure."""
PATIENCE = 3600.0
"""Seconds. An endpoint that asks to wait longer ends the run, which resumes when it is started again."""
LOOK_SECONDS = 0.1
"""How often stopping is noticed during a pause."""

Send = Callable[[Request, int], Awaitable[Reply]]
"""Sends a request once, with a seed."""


class Wave:
    """Sends requests, none of them answered yet, until all are, the budget ends or something forbids to continue.

    Args:
        send: raises Failed, NeverAnswered or UserError where there is no reply.
        store: what is sent and answered goes there first.
        ledger: says what the budget still allows.
        settings: how many at once, how often each.
        stop: asks to send no more.
        bar: advances with each answer.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        send: Send,
        store: Store,
        ledger: Ledger,
        settings: TeacherSettings,
        stop: Stop,
        bar: Tracker,
    ) -> None:
        self._queue, self._send, self._store, self._ledger = deque(requests), send, store, ledger
        self._asked = {request.key for request in self._queue}
        self._settings, self._stop, self._bar = settings, stop, bar
        self._journal = _Journal(store)
        self._order, self._settled = asyncio.Lock(), asyncio.Event()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._error: UserError | None = None
        self._ended = False
        self._answered, self._words, self._not_before = 0, 0, 0.0

    async def run(self) -> None:
        """Send all.

        Raises:
            UserError: the endpoint is down, or refuses everything; what was under way has been waited for.
        """
        # Some more than may send at once: while they write to the disk, others use the endpoint.
        workers = min(self._settings.concurrency + max(2, self._settings.concurrency // 4), len(self._queue))
        await asyncio.gather(*(self._work() for _ in range(workers)))
        if self._error is not None:
            raise self._error
        if self._ended:
            console.print("the budget is spent; raise `budget` in the study and run again to resume")

    async def _work(self) -> None:
        while (request := await self._next()) is not None:
            try:
                await self._answer(request, worst_case(request))
            except UserError as error:
                self._error = self._error or error
                self._settled.set()

    @property
    def _over(self) -> bool:
        """Whether nothing more is to be sent; beyond the budget's end, what was let in before is still sent again."""
        return bool(self._stop.number) or self._error is not None

    async def _next(self) -> Request | None:
        """Return the next request, its worst case set aside; None if no more are to be sent."""
        async with self._order:
            if self._queue and not self._ended and await self._admitted(worst_case(self._queue[0])):
                return self._queue.popleft()
        return None

    async def _admitted(self, worst: Spending) -> bool:
        """Set a sending's worst case aside, once the budget allows it; False if it never will, or all is over."""
        while not self._over:
            room = self._ledger.room(worst)
            if room == "yes":
                self._ledger.reserve(worst)
                return True
            if room == "no":
                self._ended = True
                break
            self._settled.clear()
            await self._settled.wait()
        return False

    async def _answer(self, request: Request, worst: Spending) -> None:
        """Send a request until it is answered or given up."""
        answered, failures, sendings, seed = self._answered, 0, 0, request.seed
        while True:
            if self._over:
                self._settle(worst, Spending())
                return
            await self._journal.write(self._store.asking(request, **({"seed": seed} if sendings else {})))
            sendings += 1
            try:
                reply = await self._send_when_free(request, seed)
                if reply is None:
                    await self._journal.write([{"failed": request.key, "why": "stopped before", "requests": 0}])
                    self._settle(worst, Spending())
                else:
                    await self._keep(request, worst, reply)
                return
            except NeverAnswered as error:
                await self._keep(request, worst, Reply("", str(error), read=0, written=0))
                return
            except UserError as error:
                await self._fail(request, worst, Spending(1), str(error))
                raise
            except Failed as error:
                # Too much to do for all of us is no failure of this request while others get through.
                failures = 0 if error.limited and self._answered > answered else failures + 1
                answered, cost = self._answered, worst if error.billed else Spending(1)
                over = failures >= self._settings.tries
                if over and await self._alive(request):
                    fault = f"given up after {failures} failures, the last one: {error}"
                    await self._keep(request, worst, Reply("", fault, read=cost.read, written=cost.written))
                    return
                await self._fail(request, worst, cost, str(error))
                if over:
                    raise UserError(
                        f"the teacher at {self._settings.endpoint} does not answer: {failures} failures in a row, the "
                        f"last one: {error}; see whether it runs, at this address. Everything answered is stored: run "
                        "the same command again") from error  # fmt: skip
                # Its room in the budget is kept for it meanwhile, or requests behind it would take it.
                if not await self._admitted(worst):
                    return
                await self._pause(request, sendings, error)
                seed = int(fingerprint([request.key, seed])[:7], 16)

    async def _send_when_free(self, request: Request, seed: int) -> Reply | None:
        """Send a request once, when it has a slot and nobody is to wait; None if all is over by then."""
        async with self._slots:
            if (left := self._not_before - time.monotonic()) > 0:
                # The endpoint asked everybody to wait; then not all at once.
                await self._sleep(left + random.Random(request.key).random() * min(1.0, left))
            # What concerns everybody is noted before the slot is free, so that whoever has it next knows.
            try:
                return None if self._over else await self._send(request, seed)
            except Failed as error:
                if error.limited:
                    self._not_before = max(self._not_before, time.monotonic() + (error.pause or 0.0))
                raise
            except UserError as error:
                self._error = self._error or error
                raise

    async def _alive(self, request: Request) -> bool:
        """Tell whether the endpoint answers anything, by a question as short as can be."""
        seed = int(request.key[:7], 16)
        question = Request((Message("user", "Say yes."),), f"alive/{request.purpose}", seed=seed, max_tokens=8)
        worst = worst_case(question)
        if self._ledger.room(worst) != "yes":
            return False
        self._ledger.reserve(worst)
        await self._journal.write(self._store.asking(question))
        try:
            reply = await self._send(question, seed)
        except (Failed, NeverAnswered, UserError) as error:
            await self._fail(question, worst, Spending(1), str(error))
            return False
        await self._keep(question, worst, reply)
        return True

    async def _keep(self, request: Request, worst: Spending, reply: Reply) -> None:
        """Store a reply, count it and show it."""
        size = len(reply.text.encode()) // BYTES_A_TOKEN
        read = worst.read if reply.read is None else reply.read
        written = min(size, request.max_tokens) if reply.written is None else reply.written
        cost = Spending(1, read, written)
        answer = Answer(request.key, reply.text, reply.fault, reply.finish, cost.read, cost.written)
        await self._journal.write([answer_line(answer)])
        self._settle(worst, cost)
        if not reply.fault:
            self._answered += 1
        self._words += len(reply.text.split())
        self._bar.advance(1 if request.key in self._asked else 0, self._note())

    async def _fail(self, request: Request, worst: Spending, cost: Spending, why: str) -> None:
        """Store that a sending came to nothing."""
        await self._journal.write([{"failed": request.key, "why": why, "read": cost.read, "written": cost.written}])
        self._settle(worst, cost)

    def _settle(self, worst: Spending, cost: Spending) -> None:
        self._ledger.settle(worst, cost)
        self._settled.set()

    async def _pause(self, request: Request, sendings: int, error: Failed) -> None:
        """Wait before a request is sent again."""
        asked = error.pause or 0.0
        if asked > PATIENCE:
            raise UserError(f"the teacher asks to wait {duration(asked)} ({error}); everything answered is stored: run "
                            "the same command again then")  # fmt: skip
        own = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (sendings - 1))
        seconds = asked + own * (0.5 + random.Random(f"{request.key} {sendings}").random())
        self._bar.advance(0, f"waiting {duration(seconds)}: {error}")
        await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._over and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_SECONDS))

    def _note(self) -> str:
        spent, left = self._ledger.spent, self._ledger.left()
        money = f", {self._ledger.money:.2f} of money" if self._settings.prices else ""
        told = f"{human(spent.tokens)} tok{money} in all, {human(self._words)} words back"
        return f"{told}; left: {left}" if left else told


class _Journal:
    """Appends to the store without holding up the loop: what comes while the disk is busy goes together, next."""

    def __init__(self, store: Store) -> None:
        self._store, self._disk = store, asyncio.Lock()
        self._waiting: list[Json] = []
        self._batch: asyncio.Task[None] | None = None

    async def write(self, lines: list[Json]) -> None:
        """Return when the lines are on the disk."""
        self._waiting += lines
        if self._batch is None:
            self._batch = asyncio.create_task(self._flush())
        # Whoever is cancelled while waiting does not take the lines of the others along.
        await asyncio.shield(self._batch)

    async def _flush(self) -> None:
        async with self._disk:
            lines, self._waiting, self._batch = self._waiting, [], None
            await asyncio.to_thread(self._store.append, lines)
