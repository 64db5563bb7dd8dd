"""Corpora mixed in given shares: the words stay, the shares hold, labels and held-out text are whose they should be."""

import re
from dataclasses import replace

import pytest

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus import sources
from tutelage.corpus.labels import IGNORE
from tutelage.corpus.prepare import prepare
from tutelage.corpus.sources import resolve
from tutelage.recipe.load import recipe_from_text


def write(folder, name: str, word: str, documents: int):
    folder.mkdir(exist_ok=True)
    text = "".join(f"{word} number {i} was here today.\nAnd {word} said so.\n\n" for i in range(documents))
    (folder / f"{name}.txt").write_text(text)
    return folder


def data(corpus, other, share, **more) -> recipe.Data:
    settings = {"separator": "brackets", "tokenizer": {"vocab_size": 400}, "rows": {"kind": "examples", "length": 32}}
    mix = [{"corpus": str(other), "share": share}]
    return recipe.Data.model_validate({"corpus": str(corpus), "mix": mix, **settings, **more})


def words_of(made, split: str, marks=("human", "machine")) -> list[int]:
    """How many words of a split stand in documents with each mark."""
    store, found = getattr(made, split), [0] * len(marks)
    for a, b in zip(store.document_starts, [*store.document_starts[1:], len(store)], strict=True):
        text = made.tokenizer.decode(store.tokens[a:b], skip_special_tokens=True)
        for i, mark in enumerate(marks):
            found[i] += len(text.split()) * (mark in text)
    return found


@pytest.mark.parametrize("words", [None, 3000])
def test_shares_hold_and_the_number_of_words_stays(tmp_path, words) -> None:
    human, machine = write(tmp_path / "h", "a", "human", 600), write(tmp_path / "m", "a", "machine", 900)
    alone = prepare(data(human, machine, 0.5, mix=[], words=words), tmp_path / "alone")
    mixed = prepare(data(human, machine, "30%", words=words), tmp_path / "mixed")
    for split in ("train", "val"):
        whole = getattr(alone, split).words
        ours, theirs = words_of(mixed, split)
        # Of each corpus, whole passages of ten words are taken.
        assert ours + theirs == getattr(mixed, split).words == pytest.approx(whole, abs=20)
        assert theirs / (ours + theirs) == pytest.approx(0.3, abs=0.05)
    # Test text is the corpus's own, and the same one.
    assert words_of(mixed, "test") == [alone.test.words, 0]


def test_smaller_shares_lie_within_larger_ones(tmp_path) -> None:
    human, machine = write(tmp_path / "h", "a", "human", 300), write(tmp_path / "m", "b", "machine", 900)
    texts = []
    for share in (0.2, 0.5):
        made = prepare(data(human, machine, share), tmp_path / f"out{share}")
        lines = made.tokenizer.decode(made.train.tokens)
        texts.append(set(re.findall(r"machine number \d+", lines)))
    assert texts[0] < texts[1]


def test_labels_come_from_whichever_corpus_has_them(tmp_path) -> None:
    human = write(tmp_path / "h", "a", "human", 3000)
    made = prepare(data(human, "starter", 0.4, words=40_000), tmp_path / "out")
    labels = made.train.labels
    assert [task.name for task in labels.tasks][:1] == ["sentiment"]
    assert len(labels.classes_NJ) == len(made.train.document_starts)
    bare = (labels.classes_NJ == IGNORE).all(1)
    human_documents = sum(
        b"human" in made.tokenizer.decode(made.train.tokens[a:b]).encode()
        for a, b in zip(made.train.document_starts, [*made.train.document_starts[1:], len(made.train)], strict=True)
    )
    assert bare.sum() >= human_documents > 500
    assert (~bare).sum() > 100
    assert made.test.labels.counts["topic"] == 0


def test_a_changed_corpus_is_noticed_and_a_moved_one_is_not(tmp_path) -> None:
    human, machine = write(tmp_path / "h", "a", "human", 300), write(tmp_path / "m", "a", "machine", 900)
    wished = data(human, machine, 0.3)
    made = prepare(wished, tmp_path / "out")
    assert prepare(wished, tmp_path / "out").manifest == made.manifest
    write(machine, "a", "robot", 900)
    with pytest.raises(UserError, match=r"file mix1-a \(train\) has changed"):
        prepare(wished, tmp_path / "out")
    with pytest.raises(UserError, match=r"data\.mix was"):
        prepare(data(human, machine, 0.4), tmp_path / "out")


def test_what_was_fetched_is_not_fetched_again_to_open_it(tmp_path, monkeypatch) -> None:
    """A corpus of the catalogue is known by its name; the one beside it is still looked at."""
    fetched = write(tmp_path / "f", "a", "machine", 900)
    human = write(tmp_path / "h", "a", "human", 300)
    wished = data(human, "babylm-2024-10m", 0.3)
    corpus = resolve(str(fetched))
    monkeypatch.setattr(sources, "_babylm", lambda name: replace(corpus, name=name))
    made = prepare(wished, tmp_path / "out")
    monkeypatch.setattr(sources, "_babylm", lambda name: pytest.fail("it was fetched again"))
    assert prepare(wished, tmp_path / "out").manifest == made.manifest
    write(human, "a", "person", 300)
    with pytest.raises(UserError, match=r"file a \(train\) has changed"):
        prepare(wished, tmp_path / "out")


def test_what_cannot_be_mixed_is_refused(tmp_path) -> None:
    human, machine = write(tmp_path / "h", "a", "human", 300), write(tmp_path / "m", "a", "machine", 20)
    with pytest.raises(UserError, match=r"is to give .* words, and has .* lower its share"):
        prepare(data(human, machine, 0.5), tmp_path / "out")
    head = "name: x\nmodels: {a: {preset: llama-1m, steps: 1}}\ndata: {mix: [%s]}\n"
    for mix, said in (
        ("{corpus: a, share: 60%}, {corpus: b, share: 0.5}", "leave nothing of the corpus"),
        ("{corpus: starter, share: 0.5}", "names a corpus twice"),
        ("{corpus: a, share: much}", "share"),
        ("{corpus: a, share: 100%}", "share"),
    ):
        with pytest.raises(UserError, match=said):
            recipe_from_text(head % mix)
