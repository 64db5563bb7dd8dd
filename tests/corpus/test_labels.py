"""Labels of a study corpus: beside the right tokens, whatever the tokenizer makes of the words."""

import json
from pathlib import Path

import numpy as np
import pytest

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource
from tutelage.corpus.encoding import Encoder
from tutelage.corpus.examples import example_of
from tutelage.corpus.labels import IGNORE, LabelReader
from tutelage.corpus.prepare import Prepared, prepare
from tutelage.corpus.sources import resolve
from tutelage.experiment.rows import CorpusRows

PLAN = """
lessons:
  - kind: classification
    tasks:
      - {name: mood, description: How it feels., labels: {glad: happy, sad: not}}
      - {name: theme, description: What it is about., labels: {sea: water, land: earth, air: sky}}
  - kind: pair_classification
    tasks: [{name: same, description: Whether they agree., labels: {agree: they do, clash: they do not}}]
  - {kind: tagging, tasks: [{name: pos, description: Part of speech., labels: {N: noun, V: verb, X: other}}]}
  - {kind: generation, tasks: [{name: story, description: A story.}]}
"""
WORDS = ("Fisherwomen", "don't", "swim", ",", "schadenfreude", "½", "naïve", "日本語", ".")
TAGS = ("N", "X", "V", "X", "N", "X", "X", "N", "X")


def records(count: int = 60) -> list[dict]:
    found = []
    for i in range(count):
        labels = {"mood": ("glad", "sad")[i % 2], "theme": "sea"}
        found.append({"kind": "classification", "text": f"The boat number {i} sails on the wide sea.",
                      "labels": labels, "confidence": {"mood": 0.5}})  # fmt: skip
        found.append({"kind": "pair_classification", "text": f"Cat {i} sleeps.\nAll day.", "text_pair": f"It is {i}.",
                      "labels": {"same": "agree"}})  # fmt: skip
        found.append({"kind": "tagging", "words": [*WORDS, f"w{i}"], "labels": {"pos": [*TAGS, "N"]}})
        found.append({"kind": "generation", "task": "story", "text": f"Once {i} " + "there was a long story. " * 150})
    return found


def study(folder: Path, lines: list[dict] | None = None, plan: str = PLAN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.yaml").write_text(plan)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in (lines or records()))
    (folder / "examples.jsonl").write_text(text)
    return folder


def data(corpus: Path, **more) -> recipe.Data:
    rows = {"kind": "examples", "length": 64, "buckets": [16, 32]}
    settings = {"separator": "brackets", "rows": rows, "tokenizer": {"vocab_size": 500}, "test_share": 0.2}
    return recipe.Data.model_validate({"corpus": str(corpus), **settings, **more})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("labels")
    return prepare(data(study(folder / "study")), folder / "out")


def texts_of(store, tokenizer) -> list[list[int]]:
    ends = [*store.document_starts[1:], len(store)]
    return [store.tokens[a:b].tolist() for a, b in zip(store.document_starts, ends, strict=True)]


def test_every_example_is_a_document_between_brackets_with_its_labels(made) -> None:
    tokenizer, seen = made.tokenizer, 0
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    known = {}
    for line in records():
        example = example_of(line, "")
        parts = [example.text, example.text_pair] if example.text_pair else [example.text]
        known["|".join(tokenizer.decode(tokenizer(p, add_special_tokens=False).input_ids).strip() for p in parts)] = (
            example
        )
    for split in (made.train, made.val, made.test):
        labels = split.labels
        assert [task.name for task in labels.tasks] == ["mood", "theme", "same", "pos"]
        assert len(labels.classes_NJ) == len(split.document_starts) == len(labels.sure_NL)
        for ids, classes, sure in zip(texts_of(split, tokenizer), labels.classes_NJ, labels.sure_NL, strict=True):
            assert ids[0] == cls
            assert ids[-1] == sep
            inner = ids[1:-1]
            cut = [inner] if sep not in inner else [inner[: inner.index(sep)], inner[inner.index(sep) + 1 :]]
            example = known.pop("|".join(tokenizer.decode(part).strip() for part in cut))
            wanted = [
                task.labels.index(example.labels[task.name]) if task.name in example.labels else IGNORE
                for task in labels.tasks
                if not task.tags
            ]
            assert classes.tolist() == wanted
            assert sure.tolist() == [example.confidence.get(task.name, 1.0) for task in labels.tasks]
            seen += 1
    assert not known
    assert seen == len(records())
    # Longer than a passage, and still whole.
    assert max(len(ids) for ids in texts_of(made.train, tokenizer)) > 600


def test_tags_stand_at_the_first_and_last_token_of_their_words(made) -> None:
    labels, tokenizer = made.train.labels, made.tokenizer
    [pos] = [task for task in labels.tasks if task.tags]
    found = [
        (tokenizer.decode(made.train.tokens[a : b + 1]).strip(), pos.labels[tag])
        for (a, b), [tag] in zip(labels.words_W2.tolist(), labels.tags_WK, strict=True)
    ]
    assert len(found) % 10 == 0
    for start in range(0, len(found), 10):
        words, tags = zip(*found[start : start + 10], strict=True)
        # NFKC spells ½ out.
        assert words[:9] == tuple("1⁄2" if word == "½" else word for word in WORDS)
        assert tags == (*TAGS, "N")
    lengths = np.diff(labels.words_W2, axis=1)
    assert lengths.max() > 1
    assert (np.diff(labels.words_W2.flatten()) >= 0).all()


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_rows_carry_the_labels_of_their_place(made, causal, framed) -> None:
    store, labels = made.test, made.test.labels
    reader = LabelReader(labels, labels.tasks, causal)
    rows = recipe.Rows(kind="examples", length=64, buckets=(16, 32))
    frame = (made.tokenizer.cls_token_id, made.tokenizer.sep_token_id) if framed else None
    source = BatchSource(store, rows, 8, seed=0, shuffle=False, labels=reader, frame=frame)
    tags = classes = 0
    for batch in source.once():
        for b, row in enumerate(batch.rows_B.tolist()):
            place = source.rows.place(row)
            wanted = labels.classes_NJ[place.document] if place.opens else np.full(3, IGNORE)
            assert batch.labels["classes"][b].tolist() == wanted.tolist()
            assert batch.labels["class_places"][b] == (int(batch.lengths_B[b]) - 1 if causal else 0)
            classes += int((batch.labels["classes"][b] != IGNORE).sum())
            for at, [tag] in zip(batch.labels["tag_places"][b].tolist(), batch.labels["tags"][b].tolist(), strict=True):
                if tag != IGNORE:
                    word = labels.words_W2[:, int(causal)].tolist().index(place.start + at - framed)
                    assert batch.tokens_BT[b, at] == store.tokens[place.start + at - framed]
                    assert labels.tags_WK[word, 0] == tag
                    tags += 1
    assert classes == (labels.classes_NJ != IGNORE).sum() > 0
    assert tags == (labels.tags_WK != IGNORE).sum() > 0


def test_framed_rows_hold_254_tokens_of_text_between_both_brackets(tmp_path) -> None:
    words = [f"w{number}" for number in range(97)]
    for name, count in (("long", 3000), ("short", 5)):
        texts = (" ".join(words[(text + n) % 97] for n in range(count)) for text in range(30))
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts) + "\n")
    settings = data(tmp_path, rows={"kind": "examples", "length": 256, "framing": "rows"})
    made = prepare(settings, tmp_path / "out")
    tokenizer, rows = made.tokenizer, CorpusRows(settings, made)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    plain = BatchSource(made.train, recipe.Rows(kind="examples", length=256), 1, 0, shuffle=False)
    assert np.mean([plain.rows.row(row, 0)[0] != cls for row in range(plain.count)]) > 0.5
    text, lengths = [], []
    for row in range(rows.unmasked.count):
        ids = rows.unmasked.rows.row(row, 0).tolist()
        assert (ids[0], ids[-1]) == (cls, sep)
        assert not {cls, sep} & set(ids[1:-1])
        text += ids[1:-1]
        lengths.append(len(ids))
    assert text == [token for token in made.train.tokens.tolist() if token not in (cls, sep)]
    assert np.median(lengths) == max(lengths) == 256
    assert sum(lengths) == rows.unmasked.tokens_per_epoch
    assert rows.words_per_token * sum(lengths) == pytest.approx(made.train.words)


def test_framed_rows_need_brackets_around_examples() -> None:
    for options in ({"separator": "end"}, {"rows": {"kind": "chunks", "framing": "rows"}}):
        given = {"separator": "brackets", "rows": {"kind": "examples", "framing": "rows"}} | options
        with pytest.raises(ValueError, match=r"`rows\.framing: rows` goes with"):
            recipe.Data.model_validate(given)


def test_masking_leaves_brackets_alone(made) -> None:
    from tutelage.corpus.batches import Masking

    tokenizer = made.tokenizer
    special = tuple(sorted(tokenizer.all_special_ids))
    assert {tokenizer.cls_token_id, tokenizer.sep_token_id} <= set(special)
    masking = Masking(0.9, tokenizer.mask_token_id, len(tokenizer), special, seed=1)
    source = BatchSource(made.train, recipe.Rows(kind="examples", length=64), 32, 0, masking=masking)
    batch = source.batch(0)
    brackets = 0
    for b, row in enumerate(batch.rows_B.tolist()):
        for t, token in enumerate(source.rows.row(row, 0).tolist()):
            if token in (tokenizer.cls_token_id, tokenizer.sep_token_id):
                assert (batch.tokens_BT[b, t], batch.targets_BT[b, t]) == (token, IGNORE)
                brackets += 1
    assert brackets


def test_the_tokenizer_frames_texts_as_the_corpus_does(made) -> None:
    tokenizer = made.tokenizer
    ids = tokenizer("The boat", "is glad").input_ids
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert (ids[0], ids[-1], ids.count(sep)) == (cls, sep, 2)
    assert tokenizer("The boat", add_special_tokens=False).input_ids == ids[1 : ids.index(sep)]


@pytest.mark.parametrize("kind", ["ByteLevel", "WordPiece", "Unigram"])
def test_words_find_their_tokens_with_any_tokenizer(kind) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = " ".join(WORDS)
    model, trainer, before = {
        "ByteLevel": (models.BPE(), trainers.BpeTrainer(vocab_size=300, show_progress=False),
                      pre_tokenizers.ByteLevel()),
        "WordPiece": (models.WordPiece(unk_token="?"), trainers.WordPieceTrainer(
            vocab_size=60, show_progress=False, special_tokens=["?"]), pre_tokenizers.Whitespace()),
        "Unigram": (models.Unigram(), trainers.UnigramTrainer(vocab_size=60, show_progress=False, unk_token="?",
                                                              special_tokens=["?"]), pre_tokenizers.Metaspace()),
    }[kind]  # fmt: skip
    backend = Tokenizer(model)
    backend.pre_tokenizer = before
    backend.train_from_iterator([text] * 10, trainer)
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?"))
    offsets = backend.encode(text, add_special_tokens=False).offsets
    places = encoder.word_places(text, WORDS)
    begin, last = 0, -1
    for word, place in zip(WORDS, places, strict=True):
        assert place is not None
        assert last < place[0] <= place[1]
        covered = {at for a, b in offsets[place[0] : place[1] + 1] for at in range(a, b)}
        assert covered - {begin - 1} == set(range(begin, begin + len(word)))
        begin, last = begin + len(word) + 1, place[1]
    assert last == len(offsets) - 1


def test_a_word_that_shares_its_token_has_no_place() -> None:
    class Backend:
        def encode(self, text, add_special_tokens):
            return type("E", (), {"offsets": [(0, 5), (5, 8)]})

    encoder = Encoder.__new__(Encoder)
    encoder._first = Backend()
    # "ab cd efg h": the second word lies in the first one's token, the last one has none.
    assert encoder.word_places("ab cd efg h", ("ab", "cd", "efg", "h")) == [(0, 0), None, (1, 1), None]


def test_labels_outside_the_plan_are_left_out_aloud(tmp_path) -> None:
    lines = records(20)
    lines[0]["labels"]["mood"] = "furious"
    lines[2]["labels"]["pos"][0] = "Q"
    lines[4]["labels"]["weather"] = "rain"
    lines[6]["labels"]["mood"] = ["glad"] * 10
    lines[8]["labels"]["same"] = "agree"
    lines[9]["labels"]["mood"] = "glad"
    made = prepare(data(study(tmp_path / "s", lines)), tmp_path / "out")
    assert "6 labels are not in the plan, or of another kind of text, and were left out" in made.manifest["notes"]
    counts = [split.labels.counts for split in (made.train, made.val, made.test)]
    assert sum(count["mood"] for count in counts) == 19
    assert sum(count["pos"] for count in counts) == 199
    assert sum(count["same"] for count in counts) == 20


def test_nothing_but_brackets_has_labels(tmp_path) -> None:
    made = prepare(data(study(tmp_path / "s"), separator="end", test_share=0.05), tmp_path / "out")
    assert made.train.labels is None
    assert "tasks" not in made.manifest
    assert {"test_share", "mix"}.isdisjoint(made.manifest["settings"])
    assert not list((tmp_path / "out").glob("*.classes.npy"))


def test_a_changed_plan_is_another_corpus(tmp_path) -> None:
    folder = study(tmp_path / "s", records(20))
    made = prepare(data(folder), tmp_path / "out")
    assert prepare(data(folder), tmp_path / "out").train.labels.digest == made.train.labels.digest
    study(folder, records(20), PLAN.replace("air: sky", "air: sky, fire: heat"))
    with pytest.raises(UserError, match="tasks or labels of the plan have changed"):
        prepare(data(folder), tmp_path / "out")


def test_damaged_labels_are_told(tmp_path) -> None:
    prepare(data(study(tmp_path / "s", records(20))), tmp_path / "out")
    Prepared.open(tmp_path / "out", verify=True)
    path = tmp_path / "out" / "train.tags.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"train\.tags\.npy is damaged"):
        Prepared.open(tmp_path / "out", verify=True)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"train\.tags\.npy is damaged"):
        Prepared.open(tmp_path / "out")


def test_a_plan_without_examples_is_told(tmp_path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    with pytest.raises(UserError, match="has a plan, but no examples"):
        resolve(str(tmp_path))
    (tmp_path / "requests.jsonl").touch()
    with pytest.raises(UserError, match=r"is a study; what students read is its corpus, .*corpus"):
        resolve(str(tmp_path))


def test_plain_text_stands_between_brackets_too(tmp_path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One day.\nIt rained.\n\nThe next day it did not.\n\n" * 40)
    made = prepare(data(tmp_path / "text"), tmp_path / "out")
    assert made.train.labels is None
    first = made.tokenizer.decode(texts_of(made.train, made.tokenizer)[0])
    assert first == "<cls>One day.\nIt rained.<sep>"


def test_the_starter_has_its_labels(tmp_path) -> None:
    made = prepare(data(Path("starter"), tokenizer={"vocab_size": 1000}), tmp_path / "out")
    stores = (made.train, made.val, made.test)
    assert sum(split.labels.counts["entailment"] for split in stores) == 120
    assert sum(split.words for split in stores) > 89_000


def test_a_plan_of_tags_alone(tmp_path) -> None:
    plan = "lessons: [{kind: tagging, tasks: [{name: pos, description: Part of speech., labels: {N: noun, V: verb}}]}]"
    lines = [
        {"kind": "tagging", "words": ["dogs", "run", f"w{i}"], "labels": {"pos": ["N", "V", "N"]}} for i in range(60)
    ]
    made = prepare(data(study(tmp_path / "s", lines, plan)), tmp_path / "out")
    reader = LabelReader(made.train.labels, made.train.labels.tasks, causal=False)
    source = BatchSource(made.train, data(tmp_path).rows, 8, 0, labels=reader)
    batch = source.batch(0)
    assert batch.labels["classes"].shape == (len(batch.rows_B), 0)
    assert batch.labels["tags"].shape == (len(batch.rows_B), 3, 1)
    assert (batch.labels["tags"] != IGNORE).all()


def test_one_label_where_each_word_needs_one_is_counted(tmp_path) -> None:
    lines = [{"kind": "tagging", "words": ["dogs", f"w{i}"], "labels": {"pos": "N"}} for i in range(30)]
    made = prepare(data(study(tmp_path / "s", [*records(20), *lines])), tmp_path / "out")
    assert any(note.startswith("30 labels are not in the plan") for note in made.manifest["notes"])


def test_an_empty_file_is_left_out_and_remembered(tmp_path) -> None:
    folder = study(tmp_path / "s")
    (folder / "later.jsonl").write_text("\n")
    for _ in range(2):
        made = prepare(data(folder), tmp_path / "out")
    assert any("later.jsonl holds no words" in note for note in made.manifest["notes"])
    (folder / "later.jsonl").write_text(json.dumps({"kind": "generation", "text": "It is not empty any more."}))
    with pytest.raises(UserError, match=r"file later \(train\) has changed"):
        prepare(data(folder), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "fault"), [("a \ud800 b", r"half of a character \(.ud800\)"), ("a \0 b", "a NUL character")]
)
def test_what_no_file_can_hold_is_told(tmp_path, text, fault) -> None:
    folder = study(tmp_path / "s")
    with (folder / "examples.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "generation", "text": text}) + "\n")
    with pytest.raises(UserError, match=fault):
        prepare(data(folder), tmp_path / "out")
    (tmp_path / "plain.jsonl").write_text(json.dumps({"text": text}) + "\n")
    with pytest.raises(UserError, match=f"line 1: {fault}"):
        prepare(recipe.Data(corpus=str(tmp_path / "plain.jsonl")), tmp_path / "other")


def test_a_text_that_is_none_is_told() -> None:
    with pytest.raises(UserError, match="here: 'text' is not text"):
        example_of({"kind": "classification", "text": None}, "here")
