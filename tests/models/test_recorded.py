"""When a trunk's recording is used, and that memory which is written again and again does no harm to a step.

There is no GPU here: `Replaying` does with PyTorch's operations what a replay does, the same memory for tokens, hidden
states and gradients each time, handed to autograd without a copy. What only a GPU can show is in `test_gpu.py`.
"""

import pytest
import torch

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.corpus.batches import BatchSource
from tutelage.training.execution import ExecutionMode
from tutelage.training.objectives import Learner, count, scales_for
from tutelage.training.optim import adamw

PLAIN = recipe.Objectives(next_token=recipe.Objective())


class Replaying:
    """Stands for `torch.cuda.make_graphed_callables`, whose rules it checks."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, module: torch.nn.Module, sample_args: tuple, allow_unused_input: bool = False):
        assert module.training
        assert not (torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled())
        self.recorded += 1
        torch.rand(7)  # warming up draws
        (static_tokens,) = sample_args
        parameters = tuple(module.parameters())
        original, outer = module.forward, self
        static_hidden = original(static_tokens).detach()
        static_gradients = [torch.zeros_like(parameter) for parameter in parameters]
        type_, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, tokens, *weights):
                assert [w.data_ptr() for w in weights] == [p.data_ptr() for p in parameters]
                static_tokens.copy_(tokens)
                with torch.enable_grad(), torch.autocast("cpu", type_, enabled=enabled, cache_enabled=False):
                    ctx.hidden = original(static_tokens)
                static_hidden.copy_(ctx.hidden.detach())
                outer.replayed += 1
                return static_hidden.detach()

            @staticmethod
            def backward(ctx, gradient):
                found = torch.autograd.grad(ctx.hidden, parameters, gradient, allow_unused=allow_unused_input)
                for static, new in zip(static_gradients, found, strict=True):
                    static.copy_(0 if new is None else new)
                return None, *(None if n is None else s.detach() for s, n in zip(static_gradients, found, strict=True))

        def forward(tokens):
            return Replay.apply(tokens, *parameters) if module.training else original(tokens)

        module.forward = forward
        return module


@pytest.fixture
def replaying(monkeypatch: pytest.MonkeyPatch) -> Replaying:
    found = Replaying()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    return found


def train(learner: Learner, source: BatchSource, steps: int, precision: str, micro_rows: int = 8) -> list[torch.Tensor]:
    optimizer = adamw(learner, recipe.Optim(lr=1e-2))
    found = []
    for step in range(steps):
        batch = source.batch(step)
        scales = scales_for(PLAIN, count(batch))
        for number, micro in enumerate(batch.split(micro_rows)):
            torch.manual_seed(100 * step + number)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss, _ = learner(micro, scales)
            loss.backward()
            found.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 0.1)
        found += [parameter.grad.clone() for parameter in learner.parameters()]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found + [parameter.detach().clone() for parameter in learner.parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # an output layer of its own, and a tied one
def test_training_is_the_same(store, make_model, replaying, architecture: str, precision: str) -> None:
    source = BatchSource(store, recipe.Rows(length=16), 8, seed=0)
    plain = Learner(ExecutionMode("causal").apply(make_model(architecture, 1, dropout=0.2))).train()
    graphed = Learner(ExecutionMode("causal", graphed=True).apply(make_model(architecture, 1, dropout=0.2))).train()
    assert list(graphed.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in graphed.named_parameters()] == [name for name, _ in plain.named_parameters()]
    expected, found = train(plain, source, 5, precision), train(graphed, source, 5, precision)
    assert (replaying.recorded, replaying.replayed) == (1, 5)
    assert list(graphed.state_dict()) == list(plain.state_dict())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_several_micro_batches_would_overwrite_each_other(store, make_model, replaying) -> None:
    """Why `execution.check` and `choose` allow one only; if this fails, they may allow more."""
    source = BatchSource(store, recipe.Rows(length=16), 8, seed=0)
    plain, graphed = (
        Learner(ExecutionMode("causal", graphed=g).apply(make_model("llama", 1))).train() for g in (False, True)
    )
    pairs = zip(train(graphed, source, 1, "fp32", 4), train(plain, source, 1, "fp32", 4), strict=True)
    assert any(not torch.allclose(one, other, rtol=1e-3) for one, other in pairs)


def test_everything_else_goes_the_usual_way(store, make_model, replaying) -> None:
    source = BatchSource(store, recipe.Rows(length=16), 8, seed=0)
    model = ExecutionMode("causal", graphed=True).apply(make_model("llama", 1)).train()
    tokens = source.batch(0).tokens_BT
    model.hidden(tokens)
    plain = make_model("llama", 1)
    calls = {
        "other shape": lambda: model.hidden(tokens[:3]),
        "padded": lambda: model.hidden(tokens, torch.full((8,), 16)),
        "without gradients": lambda: torch.no_grad()(model.hidden)(tokens),
        "evaluation": lambda: model.eval().hidden(tokens),
    }
    for name, call in calls.items():
        found = call()
        assert replaying.replayed == 1, name
        torch.testing.assert_close(found, plain.hidden(tokens)[: len(found)], rtol=1e-4, atol=1e-6)
    model.train().hidden(tokens)
    assert (replaying.recorded, replaying.replayed) == (1, 2)


def test_recording_takes_no_random_numbers_from_the_step(store, make_model, replaying) -> None:
    """A run that goes on records at another step, and must draw the same there."""
    tokens = BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0).tokens_BT
    model = ExecutionMode("causal", graphed=True).apply(make_model("gpt2", 1, dropout=0.5)).train()
    torch.manual_seed(3)
    first = model.hidden(tokens).clone()
    torch.manual_seed(3)
    assert torch.equal(model.hidden(tokens), first)
    assert replaying.recorded == 1


def test_what_cannot_be_recorded_is_told(store, make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    model = ExecutionMode("causal", graphed=True).apply(make_model("llama", 1)).train()
    with pytest.raises(UserError, match=r"not permitted when stream is capturing.*cuda_graphs=off"):
        model.hidden(BatchSource(store, recipe.Rows(length=16), 8, seed=0).batch(0).tokens_BT)
