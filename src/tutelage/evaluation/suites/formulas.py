"""Predictions about surprisals, as SyntaxGym writes them: parsed and computed, never run as code.

A region of a condition is `(2;%match%)`, all its regions together `(*;%match%)`. Floats, `+` and `-`, comparisons `<`,
`>` and `=` (approximate), `&` and `|`, round and square brackets, which mean the same. Operators of one rank group from
the left, `&` before `|`. Source: github.com/cpllab/syntaxgym-core, `docs/suite_json.rst`, `syntaxgym/prediction.py`.
(The published evaluator gives `+` precedence over `-`, and of a chain such as `a + b + c` it adds the first two only;
published suites use brackets.)

A formula is computed for all items at once, as a *margin*: the number of bits by which it holds, negative where it does
not. `a > b` holds by a - b, `&` by the smaller of two margins, `|` by the larger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.types import Floats

Region = tuple[str, str]
"""A region's number, or `*`, and its condition."""
Surprisals = Mapping[Region, Floats]
_Compute = Callable[[Surprisals], Floats]
_Found = tuple[Literal["number", "truth"], _Compute]

RELATIVE, ABSOLUTE = 1e-5, 1e-3
"""Tolerances of `=`, as published."""
DEPTH = 200
"""Brackets that a formula may have: published ones have some twenty."""
CLOSING = {"(": ")", "[": "]"}
_TOKEN = re.compile(r"\s*(?:\(\s*(\d+|\*)\s*;\s*%([\w-]+)%\s*\)|(\d+\.?\d*|\.\d+)|([-+<>=&|()\[\]]))")


@dataclass(frozen=True)
class Formula:
    """A prediction as written, and the regions it speaks about, in the order of their first mention."""

    source: str
    regions: tuple[Region, ...]

    def margin(self, surprisals: Surprisals) -> Floats:
        """Return by how many bits it holds for each of N items, `(N,)`; it fails at 0 and below."""
        return _Parser(self.source).parse()(surprisals)


def parse(source: str) -> Formula:
    """Read a formula; what is none, or no comparison, is refused with the place."""
    parser = _Parser(source)
    parser.parse()
    return Formula(source, tuple(dict.fromkeys(parser.regions)))


class _Parser:
    """Recursive descent: one method a rank. What is found is a number or a truth (a margin), and how to compute it."""

    def __init__(self, source: str) -> None:
        self.source, self.place = source, 0
        self.regions: list[Region] = []
        if sum(map(source.count, CLOSING)) > DEPTH:
            raise UserError(f"a formula with more than {DEPTH} brackets: {source[:80]!r}...")

    def parse(self) -> _Compute:
        found = self._truth(self._any())
        if self._peek() is not None:
            raise self._error("something follows that belongs to nothing")
        return found

    def _any(self) -> _Found:
        return self._chain("|", self._all, np.maximum)

    def _all(self) -> _Found:
        return self._chain("&", self._comparison, np.minimum)

    def _chain(self, sign: str, part: Callable[[], _Found], combine: np.ufunc) -> _Found:
        found = part()
        while self._peek() == sign:
            self._take()
            found = "truth", _both(combine, self._truth(found), self._truth(part()))
        return found

    def _comparison(self) -> _Found:
        found = self._sum()
        sign = self._peek()
        if sign not in ("<", ">", "="):
            return found
        self._take()
        left, right = self._number(found), self._number(self._sum())
        if sign == "=":
            return "truth", _both(lambda a, b: ABSOLUTE + RELATIVE * np.abs(b) - np.abs(a - b), left, right)
        return "truth", _both(np.subtract, left, right) if sign == ">" else _both(np.subtract, right, left)

    def _sum(self) -> _Found:
        found = self._atom()
        while self._peek() in ("+", "-"):
            combine = np.add if self._take() == "+" else np.subtract
            found = "number", _both(combine, self._number(found), self._number(self._atom()))
        return found

    def _atom(self) -> _Found:
        match = _TOKEN.match(self.source, self.place)
        region, condition, literal, sign = match.groups() if match else (None, None, None, None)
        if match is None or (region is None and literal is None and sign not in ("-", *CLOSING)):
            raise self._error("a region such as (2;%match%), or a number, is missing")
        self.place = match.end()
        if region is not None and condition is not None:
            key = (region if region == "*" else str(int(region)), condition)
            self.regions.append(key)
            return "number", lambda surprisals: surprisals[key]
        if literal is not None:
            value = np.array(float(literal))
            return "number", lambda _surprisals: value
        if sign == "-":
            return "number", _both(np.subtract, lambda _surprisals: np.array(0.0), self._number(self._atom()))
        inner = self._any()
        if self._take() != CLOSING[str(sign)]:
            raise self._error(f"a bracket `{sign}` is not closed")
        return inner

    def _truth(self, found: _Found) -> _Compute:
        if found[0] != "truth":
            raise self._error("a comparison (<, > or =) is missing before this")
        return found[1]

    def _number(self, found: _Found) -> _Compute:
        if found[0] != "number":
            raise self._error("before this is a comparison where a number belongs")
        return found[1]

    def _peek(self) -> str | None:
        """The next sign; `?` for whatever is none, None at the end."""
        match = _TOKEN.match(self.source, self.place)
        if match is not None and match[4]:
            return match[4]
        return "?" if self.source[self.place :].strip() else None

    def _take(self) -> str | None:
        sign, match = self._peek(), _TOKEN.match(self.source, self.place)
        self.place = match.end() if match else self.place
        return sign

    def _error(self, complaint: str) -> UserError:
        return UserError(f"formula {self.source!r}, at character {self.place + 1}: {complaint}")


def _both(combine: Callable[..., Floats], one: _Compute, other: _Compute) -> _Compute:
    return lambda surprisals: combine(one(surprisals), other(surprisals))
