"""The key `stages[].cache`: short form, refusals, controls."""

from __future__ import annotations

import pytest

from tutelage.base.errors import UserError
from tutelage.recipe import Cache
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: keys
models:
  teacher: {preset: gpt2-2m, epochs: 1}
  student:
    preset: llama-1m
    epochs: 1
    stages: [{teachers: [teacher], objectives: {next_token: 0.5, distill: 0.5}, cache: CACHE}]
  control: {like: student, without: teachers}
  same: {like: student, without: distill}
"""


def cache(text: str) -> Cache:
    found = recipe_from_text(RECIPE.replace("CACHE", text)).models["student"].stages[0].cache
    assert found is not None
    return found


def test_a_word_is_a_kind() -> None:
    assert cache("sparse") == cache("{kind: sparse}")
    assert cache("{kind: sparse, draws: 4, sets: 2, fill: first_epoch}").draws == 4


def test_a_written_out_recipe_reads_back() -> None:
    for kind in ("hidden", "sparse", "top_k"):
        assert Cache.model_validate(cache(kind).model_dump(mode="json")) == cache(kind)


@pytest.mark.parametrize("name", ["control", "same"])
def test_controls_have_no_cache(name: str) -> None:
    (stage,) = recipe_from_text(RECIPE.replace("CACHE", "hidden")).models[name].stages
    assert stage.cache is None
    assert stage.teachers == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logits", r"hidden.*sparse.*top_k"),
        ("{kind: hidden, draws: 8}", r"`draws` goes with `kind: sparse`; leave it out"),
        ("{kind: sparse, k: 8}", r"`k` goes with `kind: top_k`"),
        ("{kind: sparse, draws: 0}", r"cache\.draws"),
        ("{kind: sparse, limit_gib: 0}", r"cache\.limit_gib"),
        ("{draws: 8}", r"cache\.kind"),
        ("{kind: sparse, filled: ahead}", r"did you mean 'fill'"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cache(text)


def test_a_cache_needs_teachers() -> None:
    text = RECIPE.replace(
        "teachers: [teacher], objectives: {next_token: 0.5, distill: 0.5}, cache: CACHE", "cache: sparse"
    )
    text = text[: text.index("  control")]
    with pytest.raises(UserError, match=r"`cache` keeps teachers' output: name `teachers`"):
        recipe_from_text(text)
