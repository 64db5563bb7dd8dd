"""Gates by their definition, one token after another."""

import math

import pytest
import torch

from tutelage import recipe
from tutelage.teaching.gates import Advantage, Confidence, SkipCertain
from tutelage.teaching.signal import DenseSignal, SparseSignal
from tutelage.training.objectives import gate_of


@pytest.mark.parametrize("share", [0.01, 0.15, 0.29, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (4, 100)])
def test_skipping_the_certain_equals_sorting_each_row(share: float, shape: tuple[int, int]) -> None:
    make = torch.Generator().manual_seed(shape[1])
    # Few different values: ties are the rule.
    entropy_BT = torch.randint(0, 6, shape, generator=make).float()
    mask_BT = torch.rand(shape, generator=make) < 0.8
    found = SkipCertain(share).at_rows(entropy_BT, mask_BT)
    for b in range(shape[0]):
        places = [t for t in range(shape[1]) if mask_BT[b, t]]
        skipped = sorted(places, key=lambda t: (float(entropy_BT[b, t]), t))[: math.floor(share * len(places) + 1e-9)]
        assert [t for t in places if found[b, t] == 0] == sorted(skipped)
        assert all(found[b, t] in (0, 1) for t in places)


def test_a_row_is_skipped_alike_in_any_company() -> None:
    entropy_BT, mask_BT = torch.rand(8, 20), torch.ones(8, 20, dtype=torch.bool)
    whole = SkipCertain(0.15).at_rows(entropy_BT, mask_BT)
    alone = [SkipCertain(0.15).at_rows(entropy_BT[i : i + 1], mask_BT[i : i + 1]) for i in range(8)]
    assert torch.equal(whole, torch.cat(alone))
    assert (whole == 0).sum(1).tolist() == [3] * 8


def test_advantage_is_a_half_where_both_are_as_good_and_rises_with_the_students_loss() -> None:
    found = Advantage(2.0).weights(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 4.0]))
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))])


def test_confidence_goes_from_none_to_all() -> None:
    found = Confidence().weights(torch.tensor([0.0, math.log(10) / 2, math.log(10), math.log(10) + 1e-3]), 10)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_entropies_equal_their_definition(combine: str, temperature: float) -> None:
    torch.manual_seed(0)
    hidden = (torch.randn(37, 8), torch.randn(37, 5))
    heads = ((torch.randn(50, 8), None), (torch.randn(50, 5), torch.randn(50)))
    signal = DenseSignal(hidden, heads, (0.3, 0.7), combine)
    log_q = signal.log_probs(temperature).double()
    torch.testing.assert_close(signal.entropies(temperature).double(), -(log_q.exp() * log_q).sum(-1), rtol=1e-5,
                               atol=1e-6)  # fmt: skip


def test_a_sparse_signal_knows_its_entropies() -> None:
    known = torch.rand(4)
    signal = SparseSignal(torch.zeros(4, 2, dtype=torch.long), torch.full((4, 2), 0.5), known, torch.zeros(4), 2.0)
    assert signal.entropies(2.0) is known


def test_recipes_name_them() -> None:
    made = [
        gate_of(recipe.Distill(gate=recipe.GateSettings.model_validate(g)))
        for g in ("confidence", {"kind": "advantage", "scale": 0.5}, {"kind": "skip_certain", "share": 0.3})
    ]
    assert made == [Confidence(), Advantage(0.5), SkipCertain(0.3)]
    assert gate_of(recipe.Distill()) is None
