"""Losses of labels against a loop over instances in float64, and their independence of how a batch is cut."""

import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.one_step import one_step
from torch.nn import functional as F

from tutelage import recipe
from tutelage.corpus.batches import IGNORE, Batch, BatchSource, Masking
from tutelage.corpus.labels import LabelReader, Labels, LabelTask
from tutelage.models.heads import TaskHeads
from tutelage.training.job import Job
from tutelage.training.objectives import Learner, count, scales_for, used_positions
from tutelage.training.parallel import Group, process_group
from tutelage.training.plan import Plan
from tutelage.training.tasks import task_weights

T = 16
TASKS = (
    LabelTask("mood", "classification", ("a", "b", "c")),
    LabelTask("theme", "classification", tuple("abcdefg")),
    LabelTask("same", "pair_classification", ("yes", "no")),
    LabelTask("never", "classification", ("x", "y")),  # no text has such a label
    LabelTask("pos", "tagging", tuple("nvadp")),
    LabelTask("rare", "tagging", ("p", "q")),
)


def labels_of(store, seed: int = 0, missing: float = 0.6) -> Labels:
    """Random labels for a store's documents, most of them missing; words are one to three tokens long."""
    draw = np.random.default_rng(seed)
    N, J = len(store.document_starts), sum(not task.tags for task in TASKS)
    sizes = [len(task.labels) for task in TASKS]

    def column(rows: int, task: int, gone: float) -> np.ndarray:
        return np.where(draw.random(rows) < gone, IGNORE, draw.integers(0, sizes[task], rows))

    gone = (missing, missing, 0.9, 1.0)
    classes = np.stack([column(N, j, gone[j]) for j in range(J)], 1).astype(np.int16)
    words = []
    for start, end in zip(store.document_starts, [*store.document_starts[1:], len(store)], strict=True):
        place = start + 1
        while draw.random() < 0.9 and place + 3 < end:
            size = int(draw.integers(1, 4))
            words.append((place, place + size - 1))
            place += size
    tags = np.stack([column(len(words), J, 0.3), column(len(words), J + 1, 0.9)], 1).astype(np.int16)
    sure = draw.random((N, len(TASKS))).astype(np.float32)
    counts = dict(zip([t.name for t in TASKS], [*(classes != IGNORE).sum(0), *(tags != IGNORE).sum(0)], strict=True))
    return Labels(TASKS, classes, np.array(words, dtype=np.int64), tags, sure, counts, "digest")


def source_of(store, causal: bool = False, rows: int = 24, tasks=TASKS, confidence: bool = True) -> BatchSource:
    masking = None if causal else Masking(0.3, 3, 60, (0, 1, 2, 3, 4, 5), seed=1)
    reader = LabelReader(labels_of(store), tasks, causal, confidence)
    # Half of the documents are longer than a row.
    settings = recipe.Rows(kind="examples", length=T, buckets=(8,))
    return BatchSource(store, settings, rows, seed=0, masking=masking, labels=reader)


def objectives(causal: bool, **tasks) -> recipe.Objectives:
    text = "next_token" if causal else "masked"
    return recipe.Objectives.model_validate({text: 0.9, "tasks": {"weight": 0.5, **tasks}})


def learner_of(make_model, causal: bool, tasks=TASKS, uncertainty: bool = False) -> Learner:
    model = make_model("llama" if causal else "modernbert", 1)
    heads = TaskHeads(tasks, 32, seed=2, uncertainty=uncertainty)
    if uncertainty:
        heads.log_variance_L.data.copy_(torch.linspace(-0.5, 0.7, len(tasks)))
    for part in (heads.classes, heads.tags):
        if part is not None:
            part.linear.weight.data.mul_(20)
    return Learner(model, heads)


def weights_of(what: recipe.Objectives, tasks=TASKS, counts=None) -> tuple[float, ...]:
    found = task_weights(what.tasks, tasks, counts or dict.fromkeys((t.name for t in tasks), 1))
    return tuple(found[task.name] for task in tasks)


def naive(learner: Learner, store, batch: Batch, what: recipe.Objectives, causal: bool) -> tuple[torch.Tensor, float]:
    """The loss instance by instance, label by label, straight from the store; and its cross-entropy of the text."""
    labels, heads = labels_of(store), learner.heads
    hidden = learner.model.hidden(batch.tokens_BT, batch.lengths_B)
    logits = F.linear(hidden, learner.model.weight_VD, learner.model.bias_V)
    text, texts = 0.0, 0
    lost, sure = {task.name: 0.0 for task in TASKS}, {task.name: 0.0 for task in TASKS}
    source = source_of(store, causal)
    J = labels.classes_NJ.shape[1]
    for b, row in enumerate(batch.rows_B.tolist()):
        for t in range(batch.tokens_BT.shape[1]):
            if (target := int(batch.targets_BT[b, t])) != IGNORE:
                text = text - F.log_softmax(logits[b, t], -1)[target]
                texts += 1
        place = source.rows.place(row)
        begin = 0
        for j, task in enumerate(TASKS[:J]):
            segment = slice(begin, begin + len(task.labels))
            begin += len(task.labels)
            label = int(labels.classes_NJ[place.document, j])
            if label == IGNORE or not place.opens:
                continue
            at = place.length - 1 if causal else 0
            layer = heads.classes.linear
            said = F.log_softmax(layer.weight[segment] @ hidden[b, at] + layer.bias[segment], -1)
            confidence = float(labels.sure_NL[place.document, j])
            lost[task.name] = lost[task.name] - confidence * said[label]
            sure[task.name] += confidence
        for w, (first, last) in enumerate(labels.words_W2.tolist()):
            at = (last if causal else first) - place.start
            begin = 0
            for k, task in enumerate(TASKS[J:]):
                segment = slice(begin, begin + len(task.labels))
                begin += len(task.labels)
                label = int(labels.tags_WK[w, k])
                if label == IGNORE or not 0 <= at < place.length:
                    continue
                layer = heads.tags.linear
                said = F.log_softmax(layer.weight[segment] @ hidden[b, at] + layer.bias[segment], -1)
                confidence = float(labels.sure_NL[place.document, J + k])
                lost[task.name] = lost[task.name] - confidence * said[label]
                sure[task.name] += confidence
    loss = what.text.weight * text / texts
    for tags, weight in ((False, what.tasks.weight), (True, what.tasks.tagging_weight or what.tasks.weight)):
        family = [task.name for task in TASKS if task.tags == tags]
        for name in family:
            if sure[name]:
                term = lost[name] / sure[name]
                if heads.log_variance_L is not None:
                    s = heads.log_variance_L[[task.name for task in TASKS].index(name)]
                    term = term * torch.exp(-s) + s / 2
                loss = loss + weight / len(family) * term
    return loss, text.item() / texts


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("more", "uncertainty"), [({}, False), ({"tagging_weight": 0.2}, False), ({}, True)])
@pytest.mark.parametrize("step", [0, 3])
def test_equals_the_loop_over_instances(store, make_model, causal, more, uncertainty, step) -> None:
    batch = source_of(store, causal).batch(step)
    what = objectives(causal, **more)
    learner = learner_of(make_model, causal, uncertainty=uncertainty)
    counts = count(batch)
    assert counts.tasks[3] == 0 < counts.tasks[0]
    loss, sums = learner(batch, scales_for(what, counts, tasks=weights_of(what)), None, used_positions(batch, False))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    learner.double()
    # Logits of heads stay what they are: float32 only begins behind the layer.
    expected, text = naive(learner, store, batch, what, causal)
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-6 * text
    exact = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    error = torch.stack([(ours[name] - exact[name]).norm() for name in exact]).norm()
    assert error < 1e-5 * torch.stack([g.norm() for g in exact.values()]).norm()
    assert len(sums) == 3 + len(TASKS)
    # A head without any label: exactly zero, and still a gradient, which several processes exchange.
    segment = slice(3 + 7 + 2, 3 + 7 + 2 + 2)
    assert not ours["heads.classes.linear.weight"][segment].any()
    assert not ours["heads.classes.linear.bias"][segment].any()
    if uncertainty:
        assert ours["heads.log_variance_L"][3] == 0
        assert ours["heads.log_variance_L"][0] != 0


@pytest.mark.parametrize("causal", [False, True])
def test_instances_without_labels_learn_from_their_text_alone(store, make_model, causal) -> None:
    batch, what = source_of(store, causal).batch(0), objectives(causal)
    learner = learner_of(make_model, causal)
    bare = [b for b in range(len(batch.rows_B))
            if (batch.labels["classes"][b] == IGNORE).all() and (batch.labels["tags"][b] == IGNORE).all()]  # fmt: skip
    assert bare
    part = Batch(**{**vars(batch.part(slice(bare[0], bare[0] + 1)))})
    loss, _ = learner(part, scales_for(what, count(part), tasks=weights_of(what)))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    assert all(not grad.any() for name, grad in ours.items() if name.startswith("heads."))
    alone = Learner(learner.model)
    learner.zero_grad()
    plain, _ = alone(part, scales_for(what, count(part)))
    plain.backward()
    assert loss.item() == plain.item()
    for name, p in alone.named_parameters():
        assert p.grad is None or torch.equal(p.grad, ours[name])


def test_labels_reach_what_they_are_read_from_and_nothing_else(store, make_model) -> None:
    """A label's gradient stands in its own segment of the layer; each task by itself."""
    batch = source_of(store).batch(0)
    learner = learner_of(make_model, False)
    begin = 0
    for j, task in enumerate(TASKS[:3]):
        learner.zero_grad()
        lost, _ = learner.heads(learner.model.hidden(batch.tokens_BT, batch.lengths_B), batch.labels)
        lost[j].backward()
        touched = learner.heads.classes.linear.weight.grad.any(1).nonzero().squeeze(1).tolist()
        assert touched == list(range(begin, begin + len(task.labels)))
        begin += len(task.labels)


@pytest.mark.parametrize("causal", [False, True])
def test_does_not_depend_on_how_a_batch_is_cut(store, make_model, causal) -> None:
    batch, what = source_of(store, causal).batch(1), objectives(causal)
    found = []
    for size in (24, 5, 1):
        learner = learner_of(make_model, causal, uncertainty=True)
        scales = scales_for(what, count(batch), tasks=weights_of(what))
        sums = 0
        for part in batch.split(size):
            loss, parts = learner(part, scales, None, used_positions(part, False))
            loss.backward()
            sums = sums + parts
        found.append((torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]), sums))
    for gradient, sums in found[1:]:
        assert (gradient - found[0][0]).norm() < 1e-5 * found[0][0].norm()
        assert torch.allclose(sums, found[0][1], rtol=1e-5)


def test_long_texts_are_labelled_once_and_tags_fall_into_their_rows(store) -> None:
    labels, source = labels_of(store), source_of(store, rows=7)
    seen = np.zeros(len(labels.classes_NJ), dtype=int)
    tags = 0
    for batch in source.once():
        for b, row in enumerate(batch.rows_B.tolist()):
            place = source.rows.place(row)
            assert (batch.labels["classes"][b] == IGNORE).all() or place.opens
            seen[place.document] += int((batch.labels["classes"][b] != IGNORE).any())
            there = (batch.labels["tags"][b] != IGNORE).any(1)
            tags += int((batch.labels["tags"][b] != IGNORE).sum())
            assert (batch.labels["tag_places"][b][there] < place.length).all()
    short = np.diff([*store.document_starts, len(store)]) > 1
    assert (seen == (labels.classes_NJ != IGNORE).any(1) * short).all()
    assert tags == (labels.tags_WK != IGNORE).sum()


def test_confidence_can_be_left_out(store) -> None:
    sure, alike = source_of(store).batch(0), source_of(store, confidence=False).batch(0)
    assert (alike.labels["sure"] == 1).all()
    assert all(a == int(a) >= s for a, s in zip(count(alike).tasks, count(sure).tasks, strict=True))


def test_temperature_weighs_tasks_by_their_labels() -> None:
    counts = {"mood": 400, "theme": 100, "same": 0, "never": 0, "pos": 9, "rare": 1}
    at = lambda **more: task_weights(recipe.Tasks(weight=0.6, tagging_weight=0.3, **more), TASKS, counts)  # noqa: E731
    assert at()["mood"] == at()["never"] == pytest.approx(0.15)
    assert at(temperature=1)["mood"] == pytest.approx(0.48)
    assert at(temperature=2)["mood"] == pytest.approx(0.4)
    assert at(temperature=1)["rare"] == pytest.approx(0.03)
    assert sum(at(temperature=3).values()) == pytest.approx(0.9)


def gradient(store, make_model, rows: slice, micro: int, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """One step's gradient and sums, as the loop computes them."""
    what = objectives(False)
    stage = recipe.Stage(objectives=what)
    model = recipe.Model(preset="modernbert-4m", steps=1, stages=(stage,),
                         optim=recipe.Optim(batch_rows=11, micro_batch_rows=micro, clip=None))  # fmt: skip
    source = source_of(store, rows=11)
    job = Job("x", model, 0, source, source, 1.0, Plan(1, (1,), frozenset({1})), frozenset(), lambda i: None, "fp32",
              task_weights=(weights_of(what),))  # fmt: skip
    learner = learner_of(make_model, False)
    _, sums = one_step(job, learner, group, source.batch(3).part(rows))
    return torch.cat([p.grad.flatten() for p in learner.parameters()]), sums


def worker(rank: int, port: int, path: Path, arguments: tuple) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    with process_group() as group:
        found = gradient(*arguments, group)
        if group.is_main:
            torch.save(found, path)
    os._exit(0)


@pytest.mark.parametrize(
    ("rows", "micro"),
    [
        (slice(0, 11), 11),
        (slice(0, 11), 2),
        # The second process has no rows, and so no labels.
        (slice(0, 1), 3),
    ],
)
def test_two_processes_give_the_gradient_of_one(store, make_model, tmp_path, rows, micro) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    arguments = (store, make_model, rows, micro)
    group = [fork.Process(target=worker, args=(rank, port, tmp_path / "found", arguments)) for rank in range(2)]
    for process in group:
        process.start()
    for process in group:
        process.join(60)
        process.kill()
        assert process.exitcode == 0
    together, sums = torch.load(tmp_path / "found", weights_only=True)
    alone, expected = gradient(*arguments, Group(0, 1, torch.device("cpu")))
    assert (together - alone).norm() < 1e-5 * alone.norm()
    assert torch.allclose(sums, expected, rtol=1e-5)
