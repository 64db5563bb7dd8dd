"""What is known of texts beside their words: labels of documents, tags of words, and how sure each of them is.

Beside the tokens of a split, where its corpus has a plan (`study_plan`) and `data.separator` is `brackets`:

    <split>.classes.npy   (N, J) int16    label of each document for each task of texts or pairs; -100 is missing
    <split>.words.npy     (W, 2) int64    first and last token of each word with a tag, in rising order
    <split>.tags.npy      (W, K) int16    its label for each tagging task
    <split>.sure.npy      (N, J+K) float32    confidence of a document's labels, by task; 1 where none was given

All memory-mapped and hashed in the manifest, which also lists the tasks: those of texts and pairs, then tagging.

Shapes: N documents, J tasks of texts and pairs, K tagging tasks, L = J + K, W words; B rows, S words of a row at most.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.base import files
from tutelage.base.errors import UserError
from tutelage.base.types import Array, Json
from tutelage.corpus.encoding import Encoder
from tutelage.corpus.examples import Example
from tutelage.corpus.study_plan import ANNOTATED, StudyPlan, TaskKind

IGNORE = -100
"""A label that is missing, and the target of a position that has no loss."""
FILES = ("classes", "words", "tags", "sure")


@dataclass(frozen=True)
class LabelTask:
    """A task that texts are labelled for."""

    name: str  # as in the plan
    kind: TaskKind  # what it labels: texts, pairs or words
    labels: tuple[str, ...]  # in the plan's order, which numbers them

    @property
    def tags(self) -> bool:
        """Whether it labels words."""
        return self.kind == "tagging"


def tasks_of(plan: StudyPlan) -> tuple[LabelTask, ...]:
    """Return the tasks of a plan that have labels: those of texts, of pairs, then those of words."""
    return tuple(LabelTask(task.name, kind, tuple(task.labels)) for kind in ANNOTATED for task in plan.tasks(kind))


class LabelWriter:
    """Writes one split's labels; the caller puts what `finish` returns into the manifest."""

    def __init__(self, folder: Path, split: str, tasks: Sequence[LabelTask]) -> None:
        self._folder, self._split, self._tasks = folder, split, tasks
        self._numbers = [{label: number for number, label in enumerate(task.labels)} for task in tasks]
        self._classes, self._words, self._tags, self._sure = array("h"), array("q"), array("h"), array("f")
        self._counts = dict.fromkeys((task.name for task in tasks), 0)
        self.outside = 0  # labels left out because the plan does not know them

    def skip(self, documents: int) -> None:
        """Note documents without labels."""
        for _ in range(documents):
            self._classes.extend([IGNORE] * sum(not task.tags for task in self._tasks))
            self._sure.extend([1.0] * len(self._tasks))

    def add(self, examples: Iterable[Example], starts: Iterable[int], encoder: Encoder) -> None:
        """Note the labels of documents, an example each; `starts` are the tokens that open them."""
        known = {task.name for task in self._tasks}
        for example, start in zip(examples, starts, strict=True):
            classes = [self._number(task, example) for task in range(len(self._tasks)) if not self._tasks[task].tags]
            self._classes.extend(classes)
            self._sure.extend(example.confidence.get(task.name, 1.0) for task in self._tasks)
            self._add_tags(example, start, encoder)
            self.outside += sum(name not in known for name in example.labels)

    def _add_tags(self, example: Example, start: int, encoder: Encoder) -> None:
        self.outside += sum(task.tags and isinstance(example.labels.get(task.name), str) for task in self._tasks)
        numbers = {
            task.name: [number.get(label) for label in label_s]
            for task, number in zip(self._tasks, self._numbers, strict=True)
            if task.tags and isinstance(label_s := example.labels.get(task.name), tuple)
        }
        if not numbers or example.words is None:
            return
        places = encoder.word_places(example.text, example.words)
        self.outside += sum(number is None for column in numbers.values() for number in column)
        for word, place in enumerate(places):
            if place is None:
                continue
            # Behind the token that opens the document.
            self._words.extend(start + 1 + token for token in place)
            for name in (task.name for task in self._tasks if task.tags):
                number = numbers[name][word] if name in numbers else None
                self._tags.append(IGNORE if number is None else number)
                self._counts[name] += number is not None

    def _number(self, index: int, example: Example) -> int:
        task = self._tasks[index]
        label = example.labels.get(task.name)
        if label is None:
            return IGNORE
        fits = (task.kind == "pair_classification") == (example.text_pair is not None)
        number = self._numbers[index].get(label) if fits and isinstance(label, str) else None
        self.outside += number is None
        self._counts[task.name] += number is not None
        return IGNORE if number is None else number

    def finish(self) -> Json:
        """Write the files and return the entry of the manifest."""
        K = sum(task.tags for task in self._tasks)
        columns: tuple[Array, ...] = tuple(map(np.asarray, (self._classes, self._words, self._tags, self._sure)))
        N, W = len(self._sure) // len(self._tasks), len(self._words) // 2
        shapes = ((N, len(self._tasks) - K), (W, 2), (W, K), (N, len(self._tasks)))
        digests = {}
        for name, column, shape in zip(FILES, columns, shapes, strict=True):
            path = self._folder / f"{self._split}.{name}.npy"
            np.save(path, column.reshape(shape), allow_pickle=False)
            digests[name] = files.sha256(path)
        return {"counts": self._counts, "sha256": digests}


@dataclass(frozen=True)
class Labels:
    """One split's labels, memory-mapped; the arrays are described at the top of this file."""

    tasks: tuple[LabelTask, ...]  # those of texts and pairs, then those of words
    classes_NJ: Array
    words_W2: Array
    tags_WK: Array
    sure_NL: Array
    counts: Mapping[str, int]  # labels by task
    digest: str  # of all of it

    @classmethod
    def open(cls, folder: Path, split: str, manifest: Json, *, verify: bool = False) -> Labels | None:
        """Open the labels of a prepared corpus; None where it has none. `verify` also checks the hashes."""
        entry = manifest["splits"][split].get("labels")
        if entry is None:
            return None
        digests = entry["sha256"] if verify else {}
        classes, words, tags, sure = (load_array(folder / f"{split}.{name}.npy", digests.get(name)) for name in FILES)
        tasks = tuple(LabelTask(t["name"], t["kind"], tuple(t["labels"])) for t in manifest["tasks"])
        digest = files.fingerprint([manifest["tasks"], entry["sha256"]])
        return cls(tasks, classes, words, tags, sure, entry["counts"], digest)


def load_array(path: Path, digest: str | None) -> Array:
    """Map an array of a prepared corpus into memory; where a digest is given, the file's is compared with it."""
    try:
        if digest is not None and files.sha256(path) != digest:
            raise ValueError("another sha256")
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, fault: str) -> UserError:
    """Make the error about a file of a prepared corpus."""
    return UserError(f"{path} is damaged ({fault}): delete {path.parent} and prepare again")


@dataclass(frozen=True)
class RowSpan:
    """Where a row lies."""

    document: int  # that it is a part of
    start: int  # its first token among all of the store
    length: int  # its tokens in the store
    opens: bool  # whether it is the document's first part
    framed: bool = False  # whether it is read with one more token at each end


class LabelReader:
    """Labels of rows, for some of the tasks.

    A masked model finds a text's label at its first token and a word's at the word's first one. A causal model has seen
    neither there: it finds them at the row's last token and the word's last one.

    With `confidence`, labels weigh as much as they are sure; else all weigh 1.
    """

    def __init__(self, labels: Labels, tasks: Sequence[LabelTask], causal: bool, confidence: bool = True) -> None:
        names = [task.name for task in labels.tasks]
        chosen = [names.index(task.name) for task in tasks]
        self.tasks = tuple(tasks)
        self.counts = {task.name: labels.counts[task.name] for task in tasks}  # in the whole split
        self._labels, self._causal, self._confidence = labels, causal, confidence
        J = labels.classes_NJ.shape[1]
        self._classes = [index for index in chosen if index < J]
        self._tags = [index - J for index in chosen if index >= J]
        self._all = self._classes + [index + J for index in self._tags]
        # In memory: it is searched for every row.
        self._ends = np.ascontiguousarray(labels.words_W2[:, int(causal)])

    def read(self, places: Sequence[RowSpan]) -> dict[str, Tensor]:
        """Return the labels of rows, for `Batch.labels`.

        Returns:
            `classes` (B, J') and `class_places` (B,); `tags` (B, S, K') and `tag_places` (B, S); `sure` (B, J'+K').
        """
        labels = self._labels
        documents = [place.document for place in places]
        classes = np.asarray(labels.classes_NJ[documents][:, self._classes], dtype=np.int64)
        # A text that continues in further rows is judged by its first.
        classes[[not place.opens for place in places]] = IGNORE
        sure = np.asarray(labels.sure_NL[documents][:, self._all], dtype=np.float32)
        spans = [np.searchsorted(self._ends, [place.start, place.start + place.length]) for place in places]
        S = max((int(end - begin) for begin, end in spans), default=0) if self._tags else 0
        tags = np.full((len(places), S, len(self._tags)), IGNORE, dtype=np.int64)
        tag_places = np.zeros((len(places), S), dtype=np.int64)
        for row, (place, (begin, end)) in enumerate(zip(places, spans, strict=True)):
            if S and end > begin:
                tags[row, : end - begin] = labels.tags_WK[begin:end][:, self._tags]
                tag_places[row, : end - begin] = self._ends[begin:end] - place.start + place.framed
        at = [place.length - 1 + 2 * place.framed if self._causal else 0 for place in places]
        sure = sure if self._confidence else np.ones_like(sure)
        arrays = {"classes": classes, "tags": tags, "tag_places": tag_places, "sure": sure}
        return {"class_places": torch.tensor(at), **{name: torch.from_numpy(array) for name, array in arrays.items()}}
