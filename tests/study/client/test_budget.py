"""Who is let in does not depend on who is answered first."""

import random

import pytest

from tutelage.study.client.budget import Ledger, Spending, worst_case
from tutelage.study.client.client import Message, Request
from tutelage.study.settings import Prices, StudyBudget

PRICES = Prices(read=1.0, written=4.0)
LIMITS = [
    StudyBudget(requests=12),
    StudyBudget(tokens=900),
    StudyBudget(money=0.002),
    StudyBudget(requests=9, tokens=700),
    StudyBudget(),
]


def one_by_one(limits, worst, cost):
    """The rule, by itself: each is let in if what all before it cost and its own worst case fit."""
    ledger, count = Ledger(limits, PRICES, Spending()), 0
    for most, real in zip(worst, cost, strict=True):
        if ledger.room(most) != "yes":
            break
        ledger.reserve(most)
        ledger.settle(most, real)
        count += 1
    return count


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_answers_lets_the_same_in(limits, seed) -> None:
    draw = random.Random(seed)
    worst = [Spending(1, draw.randrange(1, 40), draw.randrange(1, 60)) for _ in range(60)]
    cost = [Spending(1, draw.randrange(w.read + 1), draw.randrange(w.written + 1)) for w in worst]
    ledger, under_way, count = Ledger(limits, PRICES, Spending()), [], 0
    while count < 60:
        room = ledger.room(worst[count]) if len(under_way) < 8 else "wait"
        assert room != "wait" or under_way, "nobody waits for nobody"
        if room == "no":
            break
        if room == "yes":
            ledger.reserve(worst[count])
            under_way.append(count)
            count += 1
        if under_way and (room == "wait" or draw.random() < 0.5):
            ended = under_way.pop(draw.randrange(len(under_way)))
            ledger.settle(worst[ended], cost[ended])
    assert count == one_by_one(limits, worst, cost)
    for ended in under_way:
        ledger.settle(worst[ended], cost[ended])
    assert ledger.reserved == Spending()
    assert ledger.spent == sum(cost[:count], Spending())
    assert limits.tokens is None or ledger.spent.tokens <= limits.tokens
    assert limits.requests is None or ledger.spent.requests <= limits.requests
    assert limits.money is None or ledger.money <= limits.money


def test_worst_case_is_no_less_than_a_byte_level_count() -> None:
    text = "The naïve cat — said: “日本語”. " * 20
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    free = Request((Message("system", text), Message("user", text)), "p", max_tokens=100)
    bound = Request(free.messages, "p", schema, max_tokens=100)
    assert worst_case(free).written == 100
    assert worst_case(free).read > 2 * len(text.encode()) / 3
    assert worst_case(bound).read > worst_case(free).read


def test_what_is_left_is_told() -> None:
    ledger = Ledger(StudyBudget(requests=10, money=1.0), PRICES, Spending(4, 100_000, 100_000))
    assert ledger.left() == "6 requests, 0.50 of money"
    assert Ledger(StudyBudget(), None, Spending(4)).left() == ""
