"""What a teacher LLM has cost, what it may cost, and whether one more request fits.

Requests are let in in their order. One is let in if what all before it really cost, and the most that it may cost
itself, fit the limits. While some before it are still under way their cost is not known; then it goes if it fits
whatever they cost, is refused if it does not fit even if they cost nothing more, and waits otherwise. So the budget
ends at the same request however fast the answers come, and is not exceeded, unless an endpoint writes more than it was
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tutelage.base.errors import UserError
from tutelage.study.client.client import Request
from tutelage.study.settings import Prices, StudyBudget

BYTES_A_TOKEN = 2
"""Of a prompt, to guess its tokens before the teacher counts them; more is usual in every language."""
TOKENS_A_MESSAGE = 16
"""For what a chat template puts around each message."""


@dataclass(frozen=True)
class Spending:
    """What requests cost: sendings, repeats included, tokens of prompts (`read`) and of answers (`written`)."""

    requests: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Spending) -> Spending:
        return Spending(self.requests + other.requests, self.read + other.read, self.written + other.written)

    def __sub__(self, other: Spending) -> Spending:
        return Spending(self.requests - other.requests, self.read - other.read, self.written - other.written)

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.read + self.written

    def money(self, prices: Prices | None) -> float:
        """Return what the tokens cost; 0 without prices."""
        return 0.0 if prices is None else (self.read * prices.read + self.written * prices.written) / 1e6


def budget_ended(what: str) -> UserError:
    """Return the refusal to continue after a stage that the end of the budget cut off, with what was done."""
    return UserError(
        f"the budget ended before all was done: {what}. What was answered is kept: raise `budget` and give the same "
        "command again; or continue with what is there, by the verbs that come next"
    )


def worst_case(request: Request) -> Spending:
    """Return the most that one sending of a request may cost, the schema told in the prompt included."""
    texts = [message.content for message in request.messages]
    if request.schema is not None:
        texts.append(str(request.schema))
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return Spending(1, size // BYTES_A_TOKEN + TOKENS_A_MESSAGE * (1 + len(texts)), request.max_tokens)


class Ledger:
    """What was spent, over the whole life of a study, and the worst cases of requests under way (`reserved`)."""

    def __init__(self, limits: StudyBudget, prices: Prices | None, spent: Spending) -> None:
        self._limits, self._prices = limits, prices
        self.spent, self.reserved = spent, Spending()

    def room(self, worst: Spending) -> Literal["yes", "no", "wait"]:
        """Tell whether a sending may go: now, never, or once others have ended."""
        if self._fits(self.spent + self.reserved + worst):
            return "yes"
        return "wait" if self._fits(self.spent + worst) else "no"

    def reserve(self, worst: Spending) -> None:
        """Set a sending's worst case aside."""
        self.reserved += worst

    def settle(self, worst: Spending, cost: Spending) -> None:
        """Replace a sending's worst case by what it cost."""
        self.reserved -= worst
        self.spent += cost

    @property
    def money(self) -> float:
        """What was spent, in money; 0 without prices."""
        return self.spent.money(self._prices)

    def left(self) -> str:
        """Say what is left, in words; empty without limits."""
        return ", ".join(told.format(max(0, most - spent)) for most, spent, told in self._limited(self.spent))

    def _fits(self, cost: Spending) -> bool:
        return all(spent <= most for most, spent, _ in self._limited(cost))

    def _limited(self, cost: Spending) -> Iterator[tuple[float, float, str]]:
        """Yield what is limited, each with its limit, what a cost takes of it, and its name."""
        limits, money = self._limits, cost.money(self._prices)
        for most, spent, told in ((limits.requests, cost.requests, "{:,} requests"),
                                  (limits.tokens, cost.tokens, "{:,} tokens"),
                                  (limits.money, money, "{:.2f} of money")):  # fmt: skip
            if most is not None:
                yield most, spent, told
