"""The prepared corpus as the models of a recipe read it: batches to train on, held-out rows, rows with labels."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource, Hybrid, Masking
from tutelage.corpus.labels import LabelReader, LabelTask
from tutelage.corpus.prepare import Prepared
from tutelage.corpus.tokenizer import vocabulary_size
from tutelage.corpus.ul2 import mixture_of
from tutelage.training.tasks import learned, task_weights

HELD_OUT_ROWS = 64
"""Rows of held-out text read at once."""


class CorpusRows:
    """The rows of a corpus, each kind built once."""

    def __init__(self, settings: recipe.Data, prepared: Prepared) -> None:
        self.settings, self.prepared = settings, prepared
        self._held_out: dict[tuple[str, Masking | None], BatchSource] = {}

    @property
    def pad_id(self) -> int:
        """What rows of examples are filled up with."""
        return self.prepared.tokenizer.pad_token_id or 0

    @property
    def words_per_token(self) -> float:
        """Words of the training split for each of its tokens, those around rows included."""
        return self.prepared.train.words / (self.unmasked.tokens_per_epoch if self._frame else len(self.prepared.train))

    @property
    def _frame(self) -> tuple[int, int] | None:
        """The tokens around every row, where rows are framed one by one."""
        tokenizer = self.prepared.tokenizer
        return (tokenizer.cls_token_id, tokenizer.sep_token_id) if self.settings.rows.framing == "rows" else None

    def training(self, model: recipe.Model) -> BatchSource:
        """Build the batches that a model learns from: shuffled, with what its objectives hide, rewrite or label."""
        data, store, tasks = self.settings, self.prepared.train, self.tasks_of(model)
        labels, mixture = None, None
        if tasks and store.labels is not None:
            labels = LabelReader(store.labels, tasks, model.reads == "causal", model.tasks[0].confidence)
        if model.ul2 is not None:
            mixture = mixture_of(model.ul2, self.prepared.tokenizer, data.rows.length, data.seed)
        rows, masking, hybrid = model.optim.batch_rows, self._masking(model), None
        if model.hybrid is not None and masking is not None:
            taught = model.hybrid.taught
            hybrid, masking = Hybrid(model.hybrid.share, masking, (taught != "whole", taught != "causal")), None
        return BatchSource(store, data.rows, rows, data.seed, self.pad_id, masking, mixture=mixture, labels=labels,
                           frame=self._frame, hybrid=hybrid)  # fmt: skip

    def held_out(self, split: str, model: recipe.Model) -> BatchSource:
        """Return the rows of a held-out split, `val` or `test`, in their order.

        They stay as they are, also for `ul2` and `hybrid`, so that losses on them compare with any causal model's.
        """
        key = (split, masking := self._masking(model) if model.reads == "masked" else None)
        if key not in self._held_out:
            store, data = self.prepared.val if split == "val" else self.prepared.test, self.settings
            source = BatchSource(store, data.rows, HELD_OUT_ROWS, data.seed, self.pad_id, masking, shuffle=False,
                                 frame=self._frame)  # fmt: skip
            self._held_out[key] = source
        return self._held_out[key]

    @cached_property
    def unmasked(self) -> BatchSource:
        """The training rows as any causal model reads them, one at a time: what is scored for selections."""
        return BatchSource(self.prepared.train, self.settings.rows, 1, self.settings.seed, self.pad_id,
                           frame=self._frame)  # fmt: skip

    def labelled(self, model: recipe.Model) -> BatchSource | None:
        """Return the rows of the test split, no token hidden, with all their labels; None if there are none."""
        store = self.prepared.test
        if store.labels is None or self.settings.rows.kind != "examples":
            return None
        labels = LabelReader(store.labels, store.labels.tasks, model.reads == "causal")
        return BatchSource(store, self.settings.rows, HELD_OUT_ROWS, 0, self.pad_id, shuffle=False, labels=labels,
                           frame=self._frame)  # fmt: skip

    def tasks_of(self, model: recipe.Model) -> tuple[LabelTask, ...]:
        """Return the tasks of the corpus that a model learns, in any of its stages.

        Raises:
            UserError: the corpus has no labels, or not those of a task that is named.
        """
        labels = self.prepared.train.labels
        found = {task.name for what in model.tasks for task in learned(what, labels.tasks if labels else ())}
        return tuple(task for task in labels.tasks if task.name in found) if labels else ()

    def task_weights(self, model: recipe.Model) -> tuple[tuple[float, ...], ...]:
        """Return of each stage what the tasks of a model weigh; nothing where it learns none."""
        tasks, labels = self.tasks_of(model), self.prepared.train.labels
        if not tasks or labels is None:
            return ()
        asked = [stage.objectives.tasks for stage in model.stages]
        weights = [task_weights(what, learned(what, labels.tasks), labels.counts) if what else {} for what in asked]
        return tuple(tuple(of_stage.get(task.name, 0.0) for task in tasks) for of_stage in weights)

    def _masking(self, model: recipe.Model) -> Masking | None:
        """Return what hides tokens from a masked model, or from one that reads some rows whole."""
        tokenizer, hides = self.prepared.tokenizer, model.hides
        if (model.reads == "masked" or hides) and tokenizer.mask_token_id is None:
            kind = "a masked model" if model.reads == "masked" else "`hybrid`"
            raise UserError(f"{kind} needs a mask token: data.tokenizer.extra_tokens must have '<mask>'")
        if self.settings.rows.kind == "examples" and tokenizer.pad_token_id is None:
            raise UserError("rows of examples are padded, but this tokenizer has no pad token; use `kind: chunks`")
        if model.reads != "masked" and hides is None:
            return None
        hides = hides or recipe.Masked()
        special = tuple(sorted(tokenizer.all_special_ids))
        found = Masking(hides.rate, tokenizer.mask_token_id, vocabulary_size(tokenizer), special, self.settings.seed)
        if hides.final_rate is None or model.epochs is None:
            return found
        return replace(found, final_rate=hides.final_rate, passes=math.ceil(model.epochs))
