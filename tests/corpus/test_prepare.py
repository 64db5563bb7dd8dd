"""From files to stores: counts that agree, splits that hold, a finished folder believed only while it is true."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from tutelage import recipe
from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.corpus import cleaned, tokenizer
from tutelage.corpus import prepare as module
from tutelage.corpus.prepare import Prepared, prepare
from tutelage.corpus.tokens import TokenStore, token_dtype

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "cat", "sat", "on", "mat", "while"]


def sentence(draw):
    return " ".join(draw.choice(WORDS, draw.integers(3, 12))) + "."


def write_corpus(folder, documents=60, dev=True, seed=0, names=("alpha", "beta")):
    draw = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for name in names:
        for end, count in (("train", documents), *((("dev", documents // 5),) if dev else ())):
            texts = ["\n".join(sentence(draw) for _ in range(draw.integers(1, 5))) for _ in range(count)]
            (folder / f"{name}.{end}").write_text("\n\n".join(texts) + "\n")
    return folder


def data(corpus, **options):
    tok = options.pop("tokenizer", {"vocab_size": 320})
    rows = options.pop("rows", {"length": 16})
    return recipe.Data.model_validate({"corpus": str(corpus), "tokenizer": tok, "rows": rows, **options})


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus")


def test_stores_agree_with_the_text(corpus, tmp_path):
    made = prepare(data(corpus), tmp_path / "out")
    text = "".join((corpus / f"{name}.dev").read_text() for name in ("alpha", "beta"))
    # The last document of a file and the first of the next are two.
    documents = [d for name in ("alpha", "beta") for d in (corpus / f"{name}.dev").read_text().strip().split("\n\n")]
    assert made.test.words == len(text.split())
    assert len(made.test.document_starts) == len(documents)
    expected = [made.tokenizer(d)["input_ids"] + [made.tokenizer.eos_token_id] for d in documents]
    assert made.test.tokens.tolist() == [i for ids in expected for i in ids]
    assert made.test.document_starts.tolist() == np.cumsum([0, *map(len, expected)])[:-1].tolist()
    assert made.test.bytes == sum(len(d.encode()) for d in documents)
    trained = [(corpus / f"{name}.train").read_text() for name in ("alpha", "beta")]
    assert made.train.words + made.val.words == sum(len(text.split()) for text in trained)
    assert made.train.tokens.max() < made.train.vocab_size == len(made.tokenizer)
    assert made.train.tokens.dtype == np.uint16
    assert made.manifest["splits"]["train"]["sources"].keys() == {"alpha", "beta"}
    assert not list((tmp_path / "out").glob(".*"))
    assert (tmp_path / "out" / "lock").exists()
    json.dumps(made.manifest)


def test_val_is_the_tail_of_the_lines(corpus, tmp_path):
    made = prepare(data(corpus, separator="none", val_share=0.2, hold_out="lines"), tmp_path / "out")
    train, val = "", ""
    for name in ("alpha", "beta"):
        lines = (corpus / f"{name}.train").read_text().splitlines(keepends=True)
        cut = round(0.8 * len(lines))
        train, val = train + "".join(lines[:cut]), val + "".join(lines[cut:])
    assert made.tokenizer.decode(made.train.tokens) == train
    assert made.tokenizer.decode(made.val.tokens) == val
    # Without separators, whole files are encoded as one text each.
    whole = [made.tokenizer((corpus / f"{name}.dev").read_text())["input_ids"] for name in ("alpha", "beta")]
    assert made.test.tokens.tolist() == [*whole[0], *whole[1]]
    assert made.test.document_starts.tolist() == [0, len(whole[0])]


def test_test_split_is_carved_where_there_is_none(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", dev=False, documents=200)
    made = prepare(data(corpus), tmp_path / "out")
    total = made.train.words + made.val.words + made.test.words
    assert total == sum(len(path.read_text().split()) for path in corpus.iterdir())
    assert made.val.words / total == pytest.approx(0.05, abs=0.01)
    assert made.test.words / total == pytest.approx(0.05, abs=0.01)
    assert "another 5 %" in made.manifest["notes"][0]


def documents_of(store, tok):
    ends = np.append(store.document_starts, len(store))[1:]
    return [tok.decode(store.tokens[a:b]) for a, b in zip(store.document_starts, ends, strict=True)]


def test_budgets_are_nested(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.corpus.splits.PASSAGE_WORDS", 8)
    tok = {"kind": "pretrained", "path": str(tmp_path / "all" / "tokenizer")}
    everything = prepare(data(corpus, val_share=0.2), tmp_path / "all")
    before = {"train": set(), "val": set(), "test": set()}
    for words in (200, 600, 1200, 10**6):
        budgets = {"words": words, "test_words": words // 5}
        made = prepare(data(corpus, **budgets, val_share=0.2, tokenizer=tok), tmp_path / str(words))
        for split, share in (("train", 0.8), ("val", 0.2), ("test", 0.2)):
            store, whole = getattr(made, split), getattr(everything, split)
            lines = {
                line for text in documents_of(store, made.tokenizer) for line in text.removesuffix("</s>").split("\n")
            }
            assert before[split] <= lines
            before[split] = lines
            budget = min(words * share, whole.words)
            assert budget - 20 <= store.words <= budget
            # In proportion, and in the original order.
            assert len(made.manifest["splits"][split]["sources"]) == 2
    assert made.train.digest == everything.train.digest
    assert any("are there and all are taken" in note for note in made.manifest["notes"])


def write_files(folder, count=100, words=400):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.txt").write_text("\n".join(f"w{number} a b c" for _ in range(words // 4)) + "\n")
    return folder


def test_a_budget_is_exact_with_100_files_of_400_words(tmp_path):
    made = prepare(data(write_files(tmp_path / "corpus"), words=5_000), tmp_path / "out")
    assert 5_000 - 400 <= made.train.words + made.val.words <= 5_000
    assert made.val.words == 400
    assert made.test.words == 2_000


def test_files_of_one_document_are_not_torn_between_splits(tmp_path):
    made = prepare(data(write_files(tmp_path / "corpus")), tmp_path / "out")
    assert [store.words for store in (made.train, made.val, made.test)] == [36_000, 2_000, 2_000]
    names = [set(made.manifest["splits"][split]["sources"]) for split in ("train", "val", "test")]
    assert sum(map(len, names)) == len(set.union(*names)) == 100


def test_a_lone_document_is_cut_at_lines_and_that_is_told(tmp_path):
    (tmp_path / "one.txt").write_text("a b c d\n" * 1000)
    made = prepare(data(tmp_path / "one.txt"), tmp_path / "out")
    assert [store.words for store in (made.train, made.val, made.test)] == [3_600, 200, 200]
    assert any("documents are cut at lines" in note for note in made.manifest["notes"])


def test_sources_of_babylm_are_cut_at_lines_as_published(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", names=("childes", "switchboard"))
    by_name = prepare(data(corpus, cleaning="published"), tmp_path / "auto")
    by_key = prepare(data(corpus, cleaning="published", hold_out="lines"), tmp_path / "lines")
    whole = prepare(data(corpus, cleaning="published", hold_out="documents"), tmp_path / "documents")
    assert by_name.val.digest == by_key.val.digest != whole.val.digest


def test_documents_that_repeat_are_told_by_file_and_across_splits(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", documents=50, names=("alpha",))
    text = (corpus / "alpha.train").read_text()
    first, second = text.split("\n\n")[:2]
    (corpus / "beta.train").write_text(f"{first}\n\n\n{second}  \n\nsomething else\n\n{first}\n")
    (corpus / "alpha.dev").write_text(f"{first}\n\nnew words here and more of them to fill the rows of the test\n")
    made = prepare(data(corpus), tmp_path / "out")
    told = capsys.readouterr().err
    assert "test: 1 of 2 documents stand in train too, word for word" in made.manifest["notes"]
    assert "repeats: 4 documents stand in the files more than once" in told
    assert {(one["name"], one["split"]): one["repeated_documents"] for one in made.manifest["sources"]} == {
        ("alpha", "train"): 0, ("beta", "train"): 3, ("alpha", "test"): 1,
    }  # fmt: skip
    row = next(line for line in told.splitlines() if line.startswith("beta.train")).split()
    tokens = sum(made.manifest["splits"][split]["sources"].get("beta", {"tokens": 0})["tokens"]
                 for split in ("train", "val"))  # fmt: skip
    assert row[2:5] == [str(tokens), "3", "train"]


@pytest.mark.parametrize(
    ("options", "names", "told"),
    [
        ({"cleaning": "published"}, ("qed",), "whose cleaning of qed was not the published one"),
        ({"words": 500}, ("childes",), "more words than were asked for"),
        ({}, ("alpha",), "which cut documents between the splits"),
        ({}, ("childes",), None),
    ],
)
def test_what_an_earlier_version_made_otherwise_is_not_used_silently(tmp_path, options, names, told):
    corpus = write_corpus(tmp_path / "corpus", documents=200, names=names)
    made = prepare(data(corpus, **options), tmp_path / "out")
    files.write_json(tmp_path / "out" / "manifest.json", {k: v for k, v in made.manifest.items() if k != "method"})
    if told is None:
        prepare(data(corpus, **options), tmp_path / "out")
        return
    with pytest.raises(UserError, match=told):
        prepare(data(corpus, **options), tmp_path / "out")


def test_left_out_text_is_never_joined_over(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.corpus.splits.PASSAGE_WORDS", 1)
    made = prepare(data(corpus, words=300, val_share=0.2), tmp_path / "out")
    text = "".join((corpus / f"{name}.train").read_text() for name in ("alpha", "beta"))
    assert all(document.removesuffix("</s>") in text for document in documents_of(made.train, made.tokenizer))


def test_finished_work_is_kept(corpus, tmp_path, monkeypatch):
    made = prepare(data(corpus), tmp_path / "out")
    monkeypatch.setattr(module, "_build", lambda *_: pytest.fail("built again"))
    again = prepare(data(corpus, rows={"length": 32}, seed=3), tmp_path / "out")
    assert again.manifest == made.manifest
    # The same text at another place is the same corpus; a store outlives the text it was made of.
    shutil.copytree(corpus, tmp_path / "copy")
    assert prepare(data(tmp_path / "copy"), tmp_path / "out").manifest == made.manifest
    corpus.rename(tmp_path / "away")
    assert prepare(data(corpus), tmp_path / "out").manifest == made.manifest
    (tmp_path / "away").rename(corpus)
    with pytest.raises(UserError, match="neither a folder"):
        prepare(data(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(UserError, match=r"data\.corpus was .* and is 'starter'"):
        prepare(data("starter"), tmp_path / "out")
    with pytest.raises(
        UserError, match=r"data\.val_share was 0\.05 and is 0\.1; data\.words was None and is 500\. Put"
    ):
        prepare(data(corpus, val_share=0.1, words=500), tmp_path / "out")
    with pytest.raises(UserError, match=r"data\.tokenizer\.vocab_size was 320 and is 330"):
        prepare(data(corpus, tokenizer={"vocab_size": 330}), tmp_path / "out")
    (corpus / "alpha.dev").write_text("changed\n")
    (corpus / "gamma.train").write_text("new\n")
    (corpus / "beta.train").unlink()
    with pytest.raises(
        UserError, match=r"beta \(train\) is gone; file gamma \(train\) is new; file alpha \(test\) has chang"
    ):
        prepare(data(corpus), tmp_path / "out")


@pytest.mark.parametrize("stage", ["clean_file", "_make_tokenizer", "_encode", "_move_into_place", "_describe"])
def test_a_killed_run_is_done_again(corpus, tmp_path, monkeypatch, stage):
    complete = prepare(data(corpus), tmp_path / "complete")
    with monkeypatch.context() as patch:
        patch.setattr(module, stage, lambda *_: os._exit(9))
        child = os.fork()
        if child == 0:
            prepare(data(corpus), tmp_path / "out")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with pytest.raises(UserError, match="no prepared corpus"):
        Prepared.open(tmp_path / "out")
    made = prepare(data(corpus), tmp_path / "out")
    assert made.manifest == complete.manifest
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("out", "complete")]
    assert names[0] == names[1]


@pytest.mark.parametrize("first_dies", [False, True])
def test_two_processes_prepare_one_folder(corpus, tmp_path, monkeypatch, first_dies):
    """The second waits for the first and uses its result; if the first is killed, it builds in its place."""
    out, build, printed = tmp_path / "out", module._build, files.console.print

    def tell(text, **options):
        printed(text, **options)
        if str(text).startswith(f"waiting for another process that prepares {out} (process "):
            (tmp_path / "waiting").touch()

    def slow(*arguments):
        (tmp_path / f"builds-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while not (tmp_path / "waiting").exists() and time.monotonic() < end:
            time.sleep(0.01)
        first = len(list(tmp_path.glob("builds-*"))) == 1
        if first_dies and first:
            (out / ".building").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
        build(*arguments)

    monkeypatch.setattr(files.console, "print", tell)
    monkeypatch.setattr(module, "_build", slow)
    children = []
    for _ in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                made = prepare(data(corpus), out)
                (tmp_path / f"digest-{os.getpid()}").write_text(made.train.digest)
            except BaseException:
                os._exit(1)
            os._exit(0)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == ([-signal.SIGKILL, 0] if first_dies else [0, 0])
    assert (tmp_path / "waiting").exists()
    assert len(list(tmp_path.glob("builds-*"))) == 1 + first_dies
    assert {path.read_text() for path in tmp_path.glob("digest-*")} == {Prepared.open(out, verify=True).train.digest}
    assert not list(out.glob(".*"))


def test_short_test_split_is_refused_only_where_it_is_needed(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", dev=False)
    (corpus / "alpha.dev").write_text("the cat\n")
    made = prepare(data(corpus), tmp_path / "out")
    message = r"data\.rows\.length is 16 tokens, but the test split has only \d+ \(2 words\)"
    assert "the test split is too short to be measured: data.rows.length is 16 tokens" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"{message}.*leave `test` out of `evaluate`"):
        made.check_test(recipe.Rows(length=16))
    examples = {"kind": "examples", "length": 16}
    prepare(data(corpus, rows=examples), tmp_path / "out").check_test(recipe.Rows(**examples))
    assert "too short" not in capsys.readouterr().err


def test_examples_need_a_text_of_two_tokens(tmp_path, capsys):
    examples = {"kind": "examples", "length": 16}
    corpus = write_corpus(tmp_path / "empty", dev=False)
    (corpus / "alpha.dev").write_text("\n")
    # The file is empty and thus left out, but the corpus brings its test files: nothing is carved.
    made = prepare(data(corpus, rows=examples), tmp_path / "out")
    assert len(made.test) == 0
    assert "test split is too short to be measured: data.rows.kind is examples" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"the test split holds no text of two tokens or more \(0 words\)"):
        made.check_test(recipe.Rows(**examples))
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    (tiny / "a.txt").write_text("the\n" * 3)
    with pytest.raises(UserError, match="the val split holds no text of two tokens"):
        prepare(data(tiny, rows=examples), tmp_path / "other")


def test_damage_is_found(corpus, tmp_path):
    folder = tmp_path / "out"
    made = prepare(data(corpus), folder)
    path = folder / "train.bin"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert len(TokenStore.open(folder, "train")) == len(made.train)
    with pytest.raises(UserError, match=r"train\.bin is damaged.*prepare again"):
        TokenStore.open(folder, "train", verify=True)
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"train\.bin is damaged \(found .* bytes"):
        Prepared.open(folder)
    path.write_bytes(content)
    (folder / "val.documents.npy").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"val\.documents\.npy is damaged"):
        Prepared.open(folder)
    with pytest.raises(UserError, match="no split 'dev'"):
        TokenStore.open(folder, "dev")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(UserError, match="has format 0, this version reads 1"):
        Prepared.open(folder)


def test_exchanged_tokenizer_is_refused(corpus, tmp_path):
    made = prepare(data(corpus), tmp_path / "out")
    other = tokenizer.train(["other text\n"] * 5, recipe.Tokenizer(vocab_size=320))
    tokenizer.save(other, tmp_path / "out" / "tokenizer")
    with pytest.raises(UserError, match="not the tokenizer"):
        Prepared.open(tmp_path / "out")
    assert made.train.tokenizer_id == tokenizer.tokenizer_id(made.tokenizer)


def test_starter_examples_are_documents(tmp_path):
    made = prepare(recipe.Data(tokenizer=recipe.Tokenizer(vocab_size=1000)), tmp_path / "out")
    from tutelage import starter
    from tutelage.corpus.reading import json_records

    records = [record for path in starter.example_files() for _, record in json_records(path)]
    texts = [
        " ".join(r["words"]) if "words" in r else "\n".join(r[key] for key in ("text", "text_pair") if key in r).strip()
        for r in records
    ]
    found = [documents_of(store, made.tokenizer) for store in (made.train, made.val, made.test)]
    assert sorted(text + "</s>" for text in texts) == sorted(text for part in found for text in part)
    total = sum(store.words for store in (made.train, made.val, made.test))
    assert made.val.words / total == pytest.approx(0.05, abs=0.005)
    assert made.test.words / total == pytest.approx(0.05, abs=0.005)
    assert len(made.manifest["splits"]["val"]["sources"]) == 6


def test_published_cleaning_glues_and_mended_does_not(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "bnc_spoken.train").write_text("Well , yes .\n\nNo .\n" * 100)
    rows = {"length": 8}
    glued = prepare(data(folder, cleaning="published", separator="none", rows=rows), tmp_path / "glued")
    mended = prepare(data(folder, separator="none", rows=rows), tmp_path / "mended")
    assert glued.tokenizer.decode(glued.test.tokens).startswith("Well, yes.No.\n")
    assert mended.tokenizer.decode(mended.train.tokens).startswith("Well, yes.\n\nNo.\n")


def test_a_function_of_ones_own_cleans_every_text(tmp_path, monkeypatch):
    module = tmp_path / "house_rules.py"
    module.write_text("def shout(text: str) -> str:\n    return text.upper()\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.train.txt").write_text("Well, yes.\n\nNo.\n" * 100)
    (folder / "b.train.jsonl").write_text('{"text": "Also this."}\n' * 100)
    wanted = data(folder, cleaning="house_rules:shout", separator="none", rows={"length": 8})
    made = prepare(wanted, tmp_path / "out")
    assert set(made.tokenizer.decode(made.train.tokens).split()) == {"WELL,", "YES.", "NO.", "ALSO", "THIS."}
    assert prepare(wanted, tmp_path / "out").manifest == made.manifest
    with pytest.raises(UserError, match=r"data\.cleaning was 'house_rules:shout' and is 'mended'\. Put"):
        prepare(data(folder, separator="none", rows={"length": 8}), tmp_path / "out")
    module.write_text(module.read_text() + "\n# another version\n")
    with pytest.raises(UserError, match=r"the code of data\.cleaning, house_rules:shout, has changed"):
        prepare(wanted, tmp_path / "out")


def test_width_of_tokens():
    assert token_dtype(65_535) == np.dtype("<u2")
    assert token_dtype(65_536) == np.dtype("<u4")


def test_text_chunks_are_bounded(tmp_path, monkeypatch):
    """A document far larger than a chunk never stands in memory as a whole."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("some words in a line\n" * 20_000)
    sizes = []
    plain = cleaned._stripped
    monkeypatch.setattr(cleaned, "_stripped", lambda chunks: (sizes.append(len(c)) or c for c in plain(chunks)))
    made = prepare(data(folder), tmp_path / "out")
    assert len(made.train.document_starts) == 1
    assert max(sizes) < 10_000 < sum(sizes)


@pytest.mark.data
def test_real_text(real_data, tmp_path):
    """A fiftieth of a real corpus: all its sources, sizes near the budget, nothing lost."""
    made = prepare(
        recipe.Data(corpus=str(real_data / "babymix-10m"), words=200_000, test_words=20_000), tmp_path / "out"
    )
    assert made.train.words + made.val.words == pytest.approx(200_000, rel=0.05)
    assert made.test.words == pytest.approx(20_000, rel=0.2)
    assert len(made.manifest["splits"]["train"]["sources"]) == 6
    assert made.manifest["splits"]["train"]["lost_bytes"] == 0
    assert 10_000 < len(made.tokenizer) < 16_000
    assert any("the vocabulary is full" in note for note in made.manifest["notes"])
    Prepared.open(tmp_path / "out", verify=True)
