"""What a study is: the one YAML file from which an LLM plans, writes and labels a corpus (`tutelage study run`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from tutelage.base.errors import UserError
from tutelage.corpus.study_plan import TaskKind
from tutelage.recipe.data import Count, Fraction, Section, Words
from tutelage.recipe.load import explain, override
from tutelage.recipe.shipped import yaml_text
from tutelage.recipe.yaml import dump, parse

Positive = Annotated[float, Field(gt=0)]
SIMILAR = 0.8
"""Similarity from which two texts count as one, unless another is given."""


class Sampling(Section):
    """How the teacher draws tokens; the paper's numbers (section 3.1)."""

    temperature: Annotated[float, Field(ge=0, le=5)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Count | None = 40
    """Not every endpoint knows it; None sends nothing."""
    repetition_penalty: Positive | None = 1.1
    """Likewise."""


class Prices(Section):
    """Money for a million tokens, in any currency; no price list is shipped, since prices change."""

    read: Annotated[float, Field(ge=0)]
    """Of prompts."""
    written: Annotated[float, Field(ge=0)]
    """Of answers."""


class TeacherSettings(Section):
    """Who plans, writes and labels: an OpenAI-compatible endpoint, or a local model."""

    model_config = ConfigDict(hide_input_in_errors=True)

    endpoint: str | None = None
    """Base address, such as `http://localhost:8000/v1` (vLLM, llama.cpp, Ollama, or hosted), without name, password,
    query or fragment: those may hold keys, and a study is written down."""
    model: str | None = None
    """Name that the endpoint knows the model by; the only one it lists unless given."""
    key_variable: str = "TUTELAGE_TEACHER_KEY"
    """Name of the environment variable that holds the endpoint's key, if it needs one; the key is never written."""
    weights: str | None = None
    """Instead of an endpoint: folder or hub id of a causal model that runs here (extra `local-teacher`)."""
    two_steps: bool = True
    """Answer freely, then put that into JSON, as the paper does, which found it more diverse; else JSON at once."""
    sampling: Sampling = Sampling()
    max_tokens: Count = 4096
    """Longest answer, in tokens; a change asks a study's questions again, and pays for them again."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests in flight at once."""
    timeout: Positive = 300.0
    """Seconds for a whole answer, however slowly it drips."""
    max_megabytes: Positive = 8.0
    """Largest answer; more is not read, nor more than `max_tokens` can come to."""
    tries: Annotated[int, Field(ge=1, le=100)] = 6
    """How often a request is sent while the endpoint fails or is busy, with pauses that grow or that it asks for."""
    repairs: Annotated[int, Field(ge=0, le=10)] = 2
    """How often an answer of the wrong form is asked for again."""
    faults: Literal["keep", "again"] = "keep"
    """`again` asks once more, for one run, what came to nothing (given up, too long for the model, empty)."""
    prices: Prices | None = None
    """To count money."""

    @model_validator(mode="after")
    def _one_teacher_and_no_keys(self) -> TeacherSettings:
        if (self.endpoint is None) == (self.weights is None):
            raise ValueError("name an `endpoint`, or the `weights` of a model that runs here; one of the two")
        # Said of the section, since errors repeat the value of a single setting.
        if self.endpoint and re.search("[@?#]", self.endpoint):
            raise ValueError("`endpoint` holds a name, password, query or fragment (`@`, `?` or `#`); keys belong into "
                             "an environment variable, which is never written down (`key_variable`)")  # fmt: skip
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,63}", self.key_variable):
            raise ValueError("`key_variable` is no name of an environment variable (letters, digits and _, at most "
                             "64); give the name of the variable that holds the key, never the key")  # fmt: skip
        return self


class StudyBudget(Section):
    """Where to stop, over the whole life of a study, restarts included; what is in flight is counted in advance."""

    requests: Count | None = None
    """Requests sent, repeats included."""
    tokens: Words | None = None
    """Tokens read and written by the teacher; `50M` is 50,000,000."""
    money: Positive | None = None
    """In the currency of `teacher.prices`."""


class Planning(Section):
    """What the teacher is asked to plan."""

    title: str = "A study plan"
    language: str = "English"
    audience: str = "a small language model that will read nothing else"
    kinds: tuple[TaskKind, ...] = ("classification", "pair_classification", "tagging", "generation")
    """Lessons, in this order."""
    tasks: Annotated[int, Field(ge=1, le=200)] = 16
    """About how many tasks a lesson is asked for."""
    prompts: Annotated[int, Field(ge=1, le=500)] = 20
    """About how many prompts a task is asked for."""


class VocabularySettings(Section):
    """The limited vocabulary of a `vocabulary` corpus."""

    words: Path | None = None
    """File with a word a line; the most frequent words written so far unless given."""
    size: Count = 5000
    """Words (or tokens) of the vocabulary, from the top of the file; 5,000 in the paper."""
    mode: Literal["words", "tokens"] = "words"
    """`words`: only words of the list (a local teacher by a grammar, a remote one by prompt, check and rewriting).
    `tokens`: all but so many tokens masked at the teacher's output, as in the paper; local teachers only."""
    share: Fraction = 0.5
    """Of the corpus that is written within it; a half in the paper."""


class Writing(Section):
    """How texts are written."""

    corpus: Literal["multi_task", "text_generation", "vocabulary"] = "multi_task"
    """The paper's three: texts of all tasks; of the writing tasks alone; the latter with half in a small vocabulary."""
    words: Words = 1_000_000
    """Words to be written in all, after filtering what is malformed."""
    examples_per_task: Count | None = 1000
    """Texts for each task with labels, or fewer if the words do not suffice; the rest of the words is writing."""
    examples_per_request: Annotated[int, Field(ge=1, le=200)] = 50
    """Texts asked for at once."""
    generation_per_request: Annotated[int, Field(ge=1, le=200)] = 4
    """Likewise for writing tasks, whose texts are long: together they must fit into `teacher.max_tokens`."""
    difficulty: bool = True
    """Ask for texts that are easy, medium and hard, in a cycle."""
    one_label: bool = True
    """Ask for texts of each label, in a cycle."""
    rare_words: bool = True
    """Ask for texts with some of the rarest words so far (seen at least three times)."""
    wave: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Requests between two counts of words: all see the counts before it, whichever answer comes first."""
    vocabulary: VocabularySettings | None = None
    """For `corpus: vocabulary`."""

    @model_validator(mode="after")
    def _vocabulary_goes_with_its_corpus(self) -> Writing:
        if (self.corpus == "vocabulary") != (self.vocabulary is not None):
            raise ValueError("`vocabulary` goes with `corpus: vocabulary`: give both, or neither")
        return self


class Labelling(Section):
    """How texts are labelled."""

    tasks: tuple[str, ...] | None = None
    """Names of tasks; all with labels unless given."""
    ask: Literal["task", "family"] = "family"
    """`task`: a request for each text and task, as in the paper. `family`: one for all tasks of a kind."""
    tags: Literal["pairs", "list"] = "pairs"
    """`pairs`: each word is repeated beside its tag. `list`: tags alone, as in the paper, which lost 95 % of them to
    wrong lengths."""
    tagged_words: Count = 60
    """Longest text whose words are labelled; texts of several lines never are."""
    votes: Annotated[int, Field(ge=1, le=25)] = 1
    """How often each label is asked for; the majority wins, and its share is the label's confidence. More than once
    needs `teacher.sampling.temperature` above 0."""


class Overlap(Section):
    """Text that also stands in an evaluation set."""

    suites: tuple[str, ...] = ()
    """Suites or files to compare with, such as `blimp` or a folder."""
    ngram: Annotated[int, Field(ge=3, le=50)] = 8
    """Words in a row that count as overlap."""
    drop: bool = True
    """Put such texts into quarantine; else only count them."""


class Filters(Section):
    """What is kept of the texts and labels."""

    min_words: Annotated[int, Field(ge=0)] = 3
    """Of a text; fewer goes into quarantine (three in the paper)."""
    max_words: Count = 5000
    letters: Literal["ascii", "latin", "any"] = "latin"
    """Which letters a text may have: `ascii` is nearest to the paper's rule for English; `any` for other scripts."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = SIMILAR
    """Similarity (Jaccard, of word triples) from which two texts count as one; None looks for equal texts alone."""
    common_words: Fraction | None = 0.2
    """Least share of a text's words that are among the 100 commonest of the corpus, for texts of 20 words and more:
    another language has fewer (English in the starter corpus 0.29 or more, its neighbours there 0.05 to 0.17)."""
    overlap: Overlap = Overlap()


class Study(Section):
    """A whole study."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$")]
    """Of the folder of its results."""
    description: str = ""
    """Shown by `tutelage study show`."""
    seed: int = 0
    teacher: TeacherSettings
    budget: StudyBudget = StudyBudget()
    plan: Planning | Path = Planning()
    """What to ask for; or the file of a plan that exists already."""
    writing: Writing = Writing()
    labelling: Labelling = Labelling()
    filters: Filters = Filters()
    prompts: Path | None = None
    """Folder with files that replace the shipped prompts of the same names."""

    @model_validator(mode="after")
    def _settings_fit(self) -> Study:
        if self.budget.money is not None and self.teacher.prices is None:
            raise ValueError("`budget.money` needs `teacher.prices`")
        vocabulary = self.writing.vocabulary
        if vocabulary and vocabulary.mode == "tokens" and self.teacher.weights is None:
            raise ValueError("`writing.vocabulary.mode: tokens` needs a teacher that runs here (`teacher.weights`)")
        if self.labelling.votes > 1 and self.teacher.sampling.temperature == 0:
            raise ValueError(
                f"`labelling.votes: {self.labelling.votes}` with `teacher.sampling.temperature: 0` pays for the same "
                "answer again and again; set `votes: 1`, or a temperature above 0"
            )
        return self


def load_study(source: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study from a file, or by the name of one that comes with the package, such as `multi-task-1m`.

    Overrides, `a.b=c`, are applied to what was read.

    Raises:
        UserError: anything wrong with the file or the overrides, with key, line and remedy.
    """
    name = str(source)
    tree, lines = parse(yaml_text("study", source), name)
    if not isinstance(tree, dict):
        raise UserError(f"{name}: a study is a mapping of keys to values, see docs/study.md")
    override(tree, overrides, lines)
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise UserError(explain(error, tree, lines, name, Study)) from error


def study_text(study: Study) -> str:
    """Return a study as YAML, defaults left out."""
    return dump(study.model_dump(mode="json", exclude_defaults=True))
