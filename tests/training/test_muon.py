"""Muon against a plain form in float64, against PyTorch's own, and against itself in every other arrangement."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from tutelage.base.errors import UserError
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import Optim
from tutelage.training.muon import NEWTON_SCHULZ, hidden_matrices, orthogonal
from tutelage.training.optim import OPTIMIZERS

MODELS = ["llama", "gpt2", "bert"]


def plain_orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """By singular values: the odd polynomial acts on each of them alone."""
    u, s, v = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / max(float(s.norm()), 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ v


class Plain:
    """One parameter at a time, one block at a time, in float64, as the papers write it."""

    def __init__(self, model: LanguageModel, optim: Optim) -> None:
        self.model, self.optim, self.state = model, optim, {}
        self.matrices = hidden_matrices(model)
        embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        assert not embeddings & set(self.matrices)

    def step(self, gradients: dict[nn.Parameter, Tensor], lr: float, t: int) -> None:
        for parameter, gradient in gradients.items():
            if parameter in self.matrices:
                heads = self.matrices[parameter] if self.optim.muon.heads else 1
                self._muon(parameter, gradient.double(), lr, heads)
            else:
                other = lr if self.optim.muon.other_lr is None else lr * self.optim.muon.other_lr / self.optim.lr
                self._adamw(parameter, gradient.double(), other, t)

    def _muon(self, p: nn.Parameter, g: Tensor, lr: float, heads: int) -> None:
        s, beta = self.optim.muon, self.optim.muon.momentum
        state = self.state.setdefault(p, {"m": torch.zeros_like(g), "v": torch.zeros(g.shape[:-1], dtype=g.dtype)})
        state["m"] = beta * state["m"] + (1 - beta) * g
        direction = beta * state["m"] + (1 - beta) * g
        rows = g.shape[0] // heads
        moves = []
        for head in range(heads):
            part = slice(head * rows, (head + 1) * rows)
            o = plain_orthogonal(direction[part], s.steps)
            if s.normalise:
                b2 = self.optim.betas[1]
                state["v"][part] = b2 * state["v"][part] + (1 - b2) * (o**2).mean(dim=1)
                o = o / (state["v"][part].sqrt() + self.optim.eps)[:, None]
                o = 0.2 * math.sqrt(o.numel()) * o / o.norm()
            else:
                r, c = o.shape
                o = o * (0.2 * math.sqrt(max(r, c)) if s.scale == "rms" else math.sqrt(max(1, r / c)))
            moves.append(o)
        move = torch.cat(moves)
        decay = lr * self.optim.weight_decay * p.data
        if s.cautious:
            decay = torch.where(move * p.data > 0, decay, torch.zeros_like(decay))
        p.data = p.data - decay - lr * move

    def _adamw(self, p: nn.Parameter, g: Tensor, lr: float, t: int) -> None:
        b1, b2 = self.optim.betas
        state = self.state.setdefault(p, {"m": torch.zeros_like(g), "v": torch.zeros_like(g)})
        state["m"] = b1 * state["m"] + (1 - b1) * g
        state["v"] = b2 * state["v"] + (1 - b2) * g**2
        decay = self.optim.weight_decay if p.ndim > 1 else 0.0
        p.data = p.data * (1 - lr * decay)
        p.data = p.data - lr * (state["m"] / (1 - b1**t)) / ((state["v"] / (1 - b2**t)).sqrt() + self.optim.eps)


def steps(model: LanguageModel, count: int = 10, seed: int = 0) -> list[dict[str, Tensor]]:
    """Made-up gradients, equal for equal names."""
    generator = torch.Generator().manual_seed(seed)
    names = [(name, p.shape) for name, p in model.named_parameters()]
    return [{name: torch.randn(shape, generator=generator) for name, shape in names} for _ in range(count)]


SETTINGS = [
    {},
    {"steps": 3, "momentum": 0.8},
    {"scale": "spectral", "other_lr": 3e-4},
    {"normalise": True},
    {"heads": True},
    {"heads": True, "normalise": True, "cautious": True},
    {"cautious": True},
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_ten_steps_equal_the_plain_form(make_model, name: str, settings: dict) -> None:
    optim = Optim(kind="muon", lr=1e-2, weight_decay=0.3, betas=(0.9, 0.95), muon=settings)
    model = make_model(name)
    twin = copy.deepcopy(model).double()
    optimizer, plain = OPTIMIZERS["muon"](model, optim), Plain(twin, optim)
    for t, gradients in enumerate(steps(model), 1):
        lr = 1e-2 / t
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("rate", 1.0)
        for key, parameter in model.named_parameters():
            parameter.grad = gradients[key].clone()
        optimizer.step()
        plain.step({p: gradients[key] for key, p in twin.named_parameters()}, lr, t)
    for (key, parameter), (_, other) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.linalg.norm(parameter - other) < 1e-5 * torch.linalg.norm(other) + 1e-7, key


def test_it_equals_pytorchs_muon_up_to_bf16() -> None:
    """PyTorch's rounds to bf16 inside, so that single numbers differ by per cents, and directions by little."""
    weight = nn.Linear(48, 80, bias=False)
    model = LayerOnly(weight)
    theirs = nn.Parameter(weight.weight.detach().clone())
    optim = Optim(kind="muon", lr=1e-2, weight_decay=0.3, muon={"momentum": 0.95, "scale": "rms"})
    ours = OPTIMIZERS["muon"](model, optim)
    reference = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.3, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    before = theirs.detach().clone()
    for _ in range(5):
        weight.weight.grad = torch.randn(80, 48)
        theirs.grad = weight.weight.grad.clone()
        ours.step()
        reference.step()
    moved, expected = weight.weight - before, theirs - before
    assert torch.linalg.norm(moved - expected) < 0.03 * torch.linalg.norm(expected)


class LayerOnly(LanguageModel):
    """A language model as far as an optimizer can see."""

    def __init__(self, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        self.only = nn.ModuleList([layer])
        self.hf = nn.Module()
        self.hf.config = type("Config", (), {"num_attention_heads": 4})()  # type: ignore[assignment]

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.only)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (16, 16), (5, 33), (33, 5)])
def test_singular_values_come_near_one_for_every_shape(shape: tuple[int, int]) -> None:
    g = torch.randn(3, *shape, dtype=torch.float64)
    found = orthogonal(g, 5)
    torch.testing.assert_close(found, torch.stack([plain_orthogonal(one) for one in g]))
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3
    assert orthogonal(torch.zeros(1, *shape), 5).abs().max() == 0, "a matrix without gradient stays where it is"


@pytest.mark.parametrize("settings", [{}, {"normalise": True, "cautious": True}])
def test_a_broken_gradient_changes_nothing(make_model, settings: dict) -> None:
    model = make_model("llama")
    optimizer = OPTIMIZERS["muon"](model, Optim(kind="muon", lr=1e-2, weight_decay=0.1, muon=settings))
    for gradients in steps(model, 2):
        for key, parameter in model.named_parameters():
            parameter.grad = gradients[key].clone()
        optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
        optimizer.step()
    weights = {key: p.detach().clone() for key, p in model.named_parameters()}
    momenta = [state["momentum"].clone() for state in optimizer.state.values() if "momentum" in state]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[key], rtol=0, atol=0)
    kept = [state["momentum"] for state in optimizer.state.values() if "momentum" in state]
    for before, after in zip(momenta, kept, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_nothing_is_read_from_the_device(make_model, reading) -> None:
    """On a GPU, each read would wait for all work before it."""
    model = make_model("llama")
    settings = {"normalise": True, "cautious": True, "heads": True}
    optimizer = OPTIMIZERS["muon"](model, Optim(kind="muon", lr=1e-2, weight_decay=0.1, muon=settings))
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    matrices = [group for group in optimizer.param_groups if "heads" in group]
    with reading() as found, torch.no_grad():
        for group in matrices:
            for parameter in group["params"]:
                optimizer._move([parameter], group)  # type: ignore[attr-defined]
    assert found.all > 20
    assert not found.found


@pytest.mark.parametrize("name", MODELS)
def test_which_weights_are_muons(make_model, name: str) -> None:
    model = make_model(name)
    optimizer = OPTIMIZERS["muon"](model, Optim(kind="muon", weight_decay=0.1, muon={"heads": True}))
    names = {id(p): key for key, p in model.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert set(groups) == set(names.values()), "every weight is in one group"
    muons = {key for key, group in groups.items() if "heads" in group}
    assert muons
    assert not [key for key in muons if "emb" in key or "lm_head" in key or "norm" in key.lower() or "bias" in key]
    if name == "llama":
        assert muons == {key for key in names.values() if "_proj" in key}
        heads = {key.split(".")[-2]: group["heads"] for key, group in groups.items() if "heads" in group}
        config = model.hf.config
        assert heads["q_proj"] == config.num_attention_heads
        assert heads["k_proj"] == heads["v_proj"] == config.num_key_value_heads
        assert heads["o_proj"] == heads["up_proj"] == 1


def test_a_model_without_layers_is_refused() -> None:
    model = LayerOnly(nn.Linear(2, 2))
    model.only = nn.ModuleList()
    with pytest.raises(UserError, match=r"optim\.kind=muon needs a model with a list of layers"):
        OPTIMIZERS["muon"](model, Optim(kind="muon"))
