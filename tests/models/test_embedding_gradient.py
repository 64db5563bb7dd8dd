"""The gradient of tied embeddings, with and without rows for tokens that were not read."""

import pytest
import torch

from tutelage import recipe
from tutelage.corpus.batches import BatchSource
from tutelage.training.objectives import Learner, count, scales_for

PLAIN = recipe.Objectives(next_token=recipe.Objective())


def gradients(model, source, steps: int) -> list[torch.Tensor]:
    learner = Learner(model).train()
    for step in range(steps):
        batch = source.batch(step)
        loss, _ = learner(batch, scales_for(PLAIN, count(batch)))
        loss.backward()
    return [parameter.grad for parameter in learner.parameters()]


def tied(make_model, architecture: str):
    model = make_model(architecture, 1)
    model.hf.config.tie_word_embeddings = True
    model.hf.tie_weights()
    assert model.hf.get_input_embeddings().weight is model.hf.get_output_embeddings().weight
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("steps", [1, 3])
def test_thin_gradients_equal_whole_ones(store, make_model, architecture: str, steps: int) -> None:
    source = BatchSource(store, recipe.Rows(length=16), 4, seed=0)
    thin = tied(make_model, architecture)
    thin.sparse_embedding_grad()
    assert thin.hf.get_input_embeddings().sparse
    for one, other in zip(
        gradients(thin, source, steps), gradients(tied(make_model, architecture), source, steps), strict=True
    ):
        assert not one.is_sparse
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_untied_embeddings_keep_whole_gradients(make_model) -> None:
    """Nothing with all rows would come first, and the optimizer knows no gradients with gaps."""
    model = make_model("llama", 1)
    assert model.hf.get_input_embeddings().weight is not model.hf.get_output_embeddings().weight
    model.sparse_embedding_grad()
    assert not model.hf.get_input_embeddings().sparse
