"""The key `stages[].select`: sizes, refusals, what it asks for."""

from __future__ import annotations

import pytest

from tutelage.base.errors import UserError
from tutelage.recipe import Select
from tutelage.recipe.load import recipe_from_text

RECIPE = """
name: keys
models:
  small: {preset: llama-1m, epochs: 1}
  student: {preset: llama-2m, epochs: 1, stages: [{span: 50%, select: SELECT}, {}]}
"""


def select(text: str) -> Select:
    found = recipe_from_text(RECIPE.replace("SELECT", text)).models["student"].stages[0].select
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("{by: random, share: 50%}", 50),
        ("{by: random, share: 0.125}", 13),
        ("{by: random, rows: 7}", 7),
        ("{by: perplexity, scorer: small, band: [20%, 80%]}", 61),
        ("{by: excess, scorer: small@last, reference: small, share: 60%}", 101),
    ],
)
def test_sizes(text: str, rows: int) -> None:
    assert select(text).count(101) == pytest.approx(rows, abs=1)
    assert Select.model_validate(select(text).model_dump(mode="json")) == select(text)


def test_scorers_are_needed_beside_teachers() -> None:
    stage = recipe_from_text(
        RECIPE.replace("SELECT", "{by: difference, scorer: small, reference: small@step-2, share: 50%}")
    ).models["student"].stages[0]  # fmt: skip
    assert [str(model) for model in stage.needs] == ["small", "small@step-2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{by: salt_ds, share: 50%}", "`by: salt_ds` needs `scorer`"),
        ("{by: difference, scorer: small, share: 50%}", "needs `reference`"),
        ("{by: perplexity, scorer: small}", "needs `band`"),
        ("{by: random, scorer: small, share: 50%}", "`scorer` does not go with `by: random`; leave it out"),
        ("{by: difference, scorer: small, reference: small@last, k: 3, share: 5%}", "`k` does not go with"),
        ("{by: salt_ds, scorer: small}", "give the size of the selection: `share` .* or `rows`, one of them"),
        ("{by: random, share: 50%, rows: 3}", "one of them"),
        ("{by: perplexity, scorer: small, band: [80%, 20%]}", "the `band` is empty"),
        ("{by: perplexity, scorer: small, band: [20%, 80%], share: 50%}", "leave out `share` and `rows`"),
        ("{by: excess, scorer: small, reference: small@last, rows: 3}", "selects tokens: give `share`"),
        ("{by: excess, scorer: small, reference: small, share: 50%}", "scorer and reference are the same"),
        ("{by: random, share: half}", "write a share as in 50%"),
        ("{by: random, share: 150%}", r"select\.share"),
        ("{by: random, share: 0%}", r"select\.share"),
        ("{by: luck, share: 50%}", r"select\.by"),
        ("{by: random, shares: 50%}", "did you mean 'share'"),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select(text)


def test_a_cache_filled_on_the_way_would_miss_hidden_targets() -> None:
    stage = (
        "teachers: [small], objectives: {next_token: 0.5, distill: 0.5}, cache: {kind: sparse, fill: first_epoch}, "
        "select: {by: excess, scorer: small@last, reference: small, share: 50%}"
    )
    with pytest.raises(UserError, match=r"hides targets that a cache keeps: take `cache\.fill: ahead`"):
        recipe_from_text(RECIPE.replace("select: SELECT", stage))


def test_a_scorer_must_read_as_its_student() -> None:
    masked = RECIPE.replace("llama-1m, epochs: 1", "modernbert-4m, epochs: 1, stages: [{objectives: {masked: 1}}]")
    with pytest.raises(UserError, match=r"stages\.0\.select: the teacher 'small' is masked, its student causal"):
        recipe_from_text(masked.replace("SELECT", "{by: salt_ds, scorer: small, share: 50%}"))
