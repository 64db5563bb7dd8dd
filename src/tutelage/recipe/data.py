"""Settings: which words become which token rows; see `recipe` for the whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tutelage.base.errors import UserError
from tutelage.base.functions import is_function_name, load_function
from tutelage.recipe.words import read_words


def _as_number(value: Any) -> Any:
    return read_words(value) if isinstance(value, str) else value


def _as_share(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value):
        return float(match[1]) / 100
    raise ValueError("write a share as in 50%")


def _cleans_text(name: str) -> str:
    if not is_function_name(name):
        raise ValueError("Input should be a function, written package.module:function")
    try:
        declared = load_function(name).__annotations__
    except UserError as error:
        raise ValueError(f"Input should be a function that is there: {error}") from error
    if len(declared) != 2 or "return" not in declared or not set(declared.values()) <= {str, "str"}:
        raise ValueError(f"Input should be a function declared as (text: str) -> str, which '{name}' is not")
    return name


def _numbered(token: str) -> list[str]:
    """Write a row of tokens out: `<extra_id_0..2>` is three."""
    if not (match := re.fullmatch(r"(.*?)(\d+)\.\.(\d+)(.*)", token)):
        return [token]
    head, first, last, tail = match[1], int(match[2]), int(match[3]), match[4]
    if not first <= last < first + 10_000:
        raise ValueError(f"'{token}' is no row of tokens: write the smaller number first, and at most 10,000 tokens")
    return [f"{head}{number}{tail}" for number in range(first, last + 1)]


Count = Annotated[int, Field(ge=1)]
Words = Annotated[int, Field(ge=1), BeforeValidator(_as_number)]
"""A number of words; `3M` is 3,000,000."""
Share = Annotated[float, Field(gt=0, lt=1)]
CleaningFunction = Annotated[str, AfterValidator(_cleans_text)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ShareOrPercent = Annotated[float, Field(ge=0, le=1), BeforeValidator(_as_share)]
"""A share that may be written as `50%`."""


BYTE_PREMIUMS = {"eng": 1.0, "nld": 1.051606, "zho": 0.935966}
"""Of the languages of BabyLM 2026's multilingual track (Arnett, Chang and Bergen 2024; Chinese is simplified)."""


def seed_list(seeds: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the seeds one by one; a number is how many there are."""
    return tuple(range(seeds)) if isinstance(seeds, int) else seeds


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse repeated seeds, and none."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {list(seeds)} are not distinct")


class Section(BaseModel):
    """Base of every part of a recipe: unknown keys refused, values frozen, docstrings kept as field descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Kinds(Section):
    """A section with a `kind`; a lone word stands for `{kind: word}`."""

    goes_with: ClassVar[Mapping[str, str]] = {}
    """Settings that only one kind has."""
    kind: str

    @model_validator(mode="before")
    @classmethod
    def _word_is_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        for key, kind in self.goes_with.items():
            if kind != self.kind and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` goes with `kind: {kind}`; leave it out")
        return self


class Mixed(Section):
    """Another corpus whose words take the place of some of the corpus's."""

    corpus: str
    """As `data.corpus`."""
    share: Annotated[ShareOrPercent, Field(gt=0, lt=1)]
    """Its part of all words to train on, such as `30%`."""


class Tokenizer(Section):
    """A byte-level BPE tokenizer trained on the training split, or an existing one."""

    kind: Literal["bpe", "pretrained"] = "bpe"
    """`bpe`: train one on the training split alone. `pretrained`: load `path`."""
    path: str | None = None
    """Folder, `tokenizer.json` or hub id of an existing tokenizer (`kind: pretrained`)."""
    vocab_size: Annotated[int, Field(ge=300)] = 16_000
    """Size asked for; a small corpus may saturate below it, and the models follow what was reached."""
    min_frequency: Count = 2
    """A pair of symbols seen less often is not merged."""
    alphabet: Literal["bytes", "seen"] = "bytes"
    """`bytes`: all 256 are in the vocabulary, so nothing can be lost. `seen`: only bytes of the training text, as
    BabyLlama's code does; others are dropped when text is encoded, and a note tells how many."""
    prefix_space: Literal["none", "training", "always"] = "training"
    """When a space is put before a text. `training`: while the tokenizer is trained but not when it is used, as
    BabyLlama did under transformers 4. `always`: in both. `none`: in neither."""
    extra_tokens: tuple[str, ...] = ("<mask>", "<cls>", "<sep>")
    """Reserved beside `<pad>`, `<s>`, `</s>`, for causal and masked models alike; `<extra_id_0..31>` is 32 tokens."""

    @field_validator("extra_tokens", mode="after")
    @classmethod
    def _rows_of_tokens(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(token for written in value for token in _numbered(written))

    @model_validator(mode="after")
    def _path_goes_with_pretrained(self) -> Tokenizer:
        if (self.kind == "pretrained") != (self.path is not None):
            raise ValueError("`path` goes with `kind: pretrained`, and only with it")
        return self


class Rows(Section):
    """How running tokens become the rows of a batch."""

    kind: Literal["chunks", "examples"] = "chunks"
    """`chunks`: rows of exactly `length` tokens of running text. `examples`: one text a row, padded to its bucket."""
    length: Annotated[int, Field(ge=8)] = 128
    """Tokens in a row; the longest row for `examples` (longer texts continue on further rows)."""
    chunking: Literal["fixed", "epoch_offset", "random"] = "fixed"
    """Where chunks begin. `fixed`: at multiples of the length (as the papers print). `epoch_offset`: shifted by a
    number drawn for each epoch. `random`: each chunk shifted by its own draw each epoch (as BabyLlama's code does)."""
    buckets: tuple[Count, ...] = (16, 32, 64)
    """Static lengths for `examples`, beside `length` itself: a row is padded to the smallest that holds it."""
    framing: Literal["texts", "rows"] = "texts"
    """What `<cls>` and `<sep>` stand around (`separator: brackets`): whole texts, so that further rows of a long one
    have neither; or every row, as the study plans have it: a row of 256 is 254 tokens of text between both."""


class Data(Section):
    """Words in, token rows out."""

    corpus: str = "starter"
    """A catalogue name (`babylm-2024-10m`, ..., `starter`), a folder of text files, or `hf:dataset`."""
    mix: tuple[Mixed, ...] = ()
    """Other corpora, human beside synthetic: each takes the place of a share of the words of train and val, so that
    their number stays. The test split is the corpus's alone."""
    words: Words | None = None
    """Take at most this many words (train and val together), within one document; spread over the sources like the
    whole; smaller budgets are subsets of larger ones."""
    unit: Literal["words", "characters", "bytes"] = "words"
    """What `words`, `test_words`, lengths in words and reports count. `words`: what stands between blanks.
    `characters`, blanks left out: for Japanese, Chinese, Thai and others that are written without spaces. `bytes`: as
    many UTF-8 bytes as a word of English has (5.43), times `byte_premium`, as in BabyLM's multilingual track."""
    byte_premium: Annotated[float, Field(gt=0)] | Literal["eng", "nld", "zho"] | None = None
    """Bytes that a text of this language takes for one of English (`unit: bytes`): a number, or the language, with
    BabyLM's numbers: eng 1, nld 1.051606, zho 0.935966."""
    test_words: Words | None = None
    """Likewise for the test split (the corpus's dev files)."""
    val_share: Share = 0.05
    """Share of the training text held out, from the ends of its files, to choose checkpoints by."""
    hold_out: Literal["auto", "documents", "lines"] = "auto"
    """What is held out as val and test: whole documents, or the last lines of each file (BabyLlama-2). `auto`: lines
    for the sources of BabyLM, known by their file names, else documents. Examples of a study are whole in any case."""
    cleaning: Literal["none", "mended", "published"] | CleaningFunction = "mended"
    """Cleaning of known corpora. `published`: as BabyLlama's code does, paragraphs glued together. `mended`: the same
    rules, with paragraphs and documents kept apart. Or a function of your own for every text, as
    `package.module:function`: see [corpora](#corpora)."""
    test_share: Share = 0.05
    """Share held out as test where the corpus brings no test files."""
    separator: Literal["none", "end", "brackets"] = "end"
    """`end`: the token `</s>` closes every document. `none`: documents follow one another, as BabyLlama's did.
    `brackets`: `<cls> text <sep>`, pairs `<cls> text <sep> text <sep>`; labels need it (`objectives.tasks`)."""
    encoding: str = "auto"
    """Text encoding of the files. `auto`: of each by itself, UTF-8 where it decodes so, else what its byte-order mark
    says, else the likeliest one, which is told. A file that does not decode is refused by name and position."""
    text_field: str = "text"
    """Where the text stands in JSON lines and datasets."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer, shared by all models of the recipe."""
    rows: Rows = Rows()
    """The rows, shared by all models of the recipe."""
    seed: int = 0
    """Order of rows and random offsets; apart from the models' seeds, so that students see the same rows."""

    @property
    def premium(self) -> float:
        """The byte premium as a number."""
        return BYTE_PREMIUMS[self.byte_premium] if isinstance(self.byte_premium, str) else self.byte_premium or 1.0

    @model_validator(mode="after")
    def _premium_goes_with_bytes(self) -> Data:
        if (self.unit == "bytes") != (self.byte_premium is not None):
            raise ValueError("`byte_premium` goes with `unit: bytes`, and only with it; English has 1")
        return self

    @model_validator(mode="after")
    def _framed_rows_have_brackets(self) -> Data:
        if self.rows.framing == "rows" and (self.separator != "brackets" or self.rows.kind != "examples"):
            raise ValueError("`rows.framing: rows` goes with `separator: brackets` and `rows.kind: examples`")
        return self

    @model_validator(mode="after")
    def _mix_leaves_something(self) -> Data:
        if sum(one.share for one in self.mix) >= 1:
            raise ValueError("the shares of `mix` leave nothing of the corpus; they must sum to less than 1")
        names = [self.corpus, *(one.corpus for one in self.mix)]
        if len(set(names)) < len(names):
            raise ValueError(f"`mix` names a corpus twice: {', '.join(names)}")
        return self
