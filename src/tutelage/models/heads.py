"""Heads for the tasks of a study: labels of whole texts, and of single words.

All tasks of texts and pairs share one linear layer, each with its own segment of the outputs; all tagging tasks share
another. They read what the output layer reads, so a masked model's transform before it serves them too.

Shapes: B rows, T tokens, D width, S words of a row; J tasks of texts and pairs, K tagging tasks, L = J + K, C the most
labels of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.base.errors import UserError
from tutelage.base.files import read_json, write_json
from tutelage.corpus.labels import IGNORE, LabelTask

WEIGHTS, SETTINGS = "heads.safetensors", "heads.json"


class Segments(nn.Module):
    """One linear layer whose outputs are the labels of several tasks, one task after another."""

    columns_JC: Tensor
    there_JC: Tensor

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(sizes))
        most = max(sizes, default=0)
        columns = torch.zeros(len(sizes), most, dtype=torch.long)
        there = torch.zeros(len(sizes), most, dtype=torch.bool)
        begin = 0
        for task, size in enumerate(sizes):
            columns[task, :size] = torch.arange(begin, begin + size)
            there[task, :size] = True
            begin += size
        # Not saved: they follow from the tasks.
        self.register_buffer("columns_JC", columns, persistent=False)
        self.register_buffer("there_JC", there, persistent=False)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return log-probabilities, `(N, J, C)` float32; minus infinity where a task has fewer labels."""
        logits = self.linear(hidden_ND).float()
        found = logits[:, self.columns_JC.flatten()].view(len(hidden_ND), *self.columns_JC.shape)
        return F.log_softmax(found.masked_fill(~self.there_JC, float("-inf")), -1)


class TaskHeads(nn.Module):
    """Hidden states to labels, of the tasks of texts and pairs, then of those of words.

    With `uncertainty`, each task has a variance that is learned, `log_variance_L` (Kendall et al. 2018).
    """

    def __init__(self, tasks: Sequence[LabelTask], width: int, seed: int = 0, uncertainty: bool = False) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        sizes = {tags: [len(task.labels) for task in tasks if task.tags == tags] for tags in (False, True)}
        self.classes = Segments(width, sizes[False]) if sizes[False] else None
        self.tags = Segments(width, sizes[True]) if sizes[True] else None
        self.log_variance_L = nn.Parameter(torch.zeros(len(tasks))) if uncertainty else None
        draw = torch.Generator().manual_seed(seed)
        for part in (self.classes, self.tags):
            if part is not None:
                nn.init.normal_(part.linear.weight, std=0.02, generator=draw)
                nn.init.zeros_(part.linear.bias)

    def forward(self, hidden_BTD: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return cross-entropies summed by task, each weighted by how sure its label is, and the sums of these weights.

        Sums in nats and weights are `(L,)` float32; where a task has no label, an exact zero with gradient zero. For
        `labels` see `LabelReader.read`.
        """
        sums, counts, J = list[Tensor](), list[Tensor](), 0
        rows = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        if self.classes is not None:
            targets_BJ = labels["classes"]
            J = targets_BJ.shape[1]
            log_p = self.classes(hidden_BTD[rows, labels["class_places"]])
            lost, sure = _lost(log_p, targets_BJ, labels["sure"][:, :J])
            sums, counts = [*sums, lost], [*counts, sure]
        if self.tags is not None:
            targets_BSK = labels["tags"]
            hidden_BSD = hidden_BTD[rows[:, None], labels["tag_places"]]
            log_p = self.tags(hidden_BSD.flatten(0, 1))
            sure_BSK = labels["sure"][:, None, J:].expand(targets_BSK.shape)
            lost, sure = _lost(log_p, targets_BSK.flatten(0, 1), sure_BSK.flatten(0, 1))
            sums, counts = [*sums, lost], [*counts, sure]
        return torch.cat(sums), torch.cat(counts)

    @torch.no_grad()
    def predict(self, hidden_BTD: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the most likely labels, `(B, J)` and `(B, S, K)`, in the places that `labels` names.

        Of these heads' tasks, whatever others are labelled.
        """
        rows = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        classes, tags = rows.new_empty(len(rows), 0), rows.new_empty(*labels["tag_places"].shape, 0)
        if self.classes is not None:
            classes = self.classes(hidden_BTD[rows, labels["class_places"]]).argmax(-1)
        if self.tags is not None:
            hidden_BSD = hidden_BTD[rows[:, None], labels["tag_places"]]
            tags = self.tags(hidden_BSD.flatten(0, 1)).argmax(-1)
            tags = tags.view(*labels["tag_places"].shape, tags.shape[1])
        return classes, tags


def _lost(log_p_NJC: Tensor, targets_NJ: Tensor, sure_NJ: Tensor) -> tuple[Tensor, Tensor]:
    there_NJ = targets_NJ != IGNORE
    right = log_p_NJC.gather(2, targets_NJ.clamp_min(0)[..., None]).squeeze(2)
    sure_NJ = sure_NJ * there_NJ
    return -(right * sure_NJ).sum(0), sure_NJ.sum(0)


def save_heads(heads: TaskHeads, folder: Path, reads: Literal["causal", "masked"]) -> None:
    """Write heads beside a model's weights: `heads.safetensors`, and `heads.json` with tasks and labels in order."""
    weights = {name: tensor.detach().contiguous() for name, tensor in heads.named_parameters()}
    tasks = [{"name": task.name, "kind": task.kind, "labels": list(task.labels)} for task in heads.tasks]
    width = next(part for part in (heads.classes, heads.tags) if part is not None).linear.in_features
    at = {"masked": "first token of the text, or of the word", "causal": "last token of the text, or of the word"}
    write_json(folder / SETTINGS, {"width": width, "read_at": at[reads], "tasks": tasks})
    save_file(weights, folder / WEIGHTS)


def load_heads(folder: Path) -> TaskHeads | None:
    """Load the heads beside a model's weights; None where there are none."""
    if not (folder / WEIGHTS).is_file():
        return None
    settings, weights = read_json(folder / SETTINGS), load_file(folder / WEIGHTS)
    try:
        tasks = [LabelTask(task["name"], task["kind"], tuple(task["labels"])) for task in settings["tasks"]]
        heads = TaskHeads(tasks, settings["width"], uncertainty="log_variance_L" in weights)
        heads.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder / WEIGHTS} does not fit {SETTINGS}: {error}") from error
    return heads
