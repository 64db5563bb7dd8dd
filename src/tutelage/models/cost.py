"""What a model costs: parameters, floating-point operations, bytes.

Operations are those of the matrix products (two per multiply-add), the backward pass counted as twice the forward,
attention with its causal half; norms, softmaxes and look-ups of embeddings are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn


@dataclass(frozen=True)
class Cost:
    """Size and arithmetic of a model at one row length."""

    parameters: int
    """All of them; tied weights once."""
    embedding_parameters: int
    """Token and position embeddings (an untied output layer is not among them)."""
    forward_flops: float
    """Operations for one token of a forward pass, output layer included."""
    training_flops: float
    """The same for forward and backward."""
    output_width: int
    """Width of the hidden states that the output layer reads."""
    activation_bytes: float
    """Kept for one token for the backward pass, about: sixteen float32 values of the width in every layer."""

    def training_bytes(self, tokens: int, taught_by: int = 0) -> float:
        """Return about what training takes in memory, in bytes, in one process that holds everything.

        Args:
            tokens: read at once, of one micro-batch.
            taught_by: parameters of the teachers, which have weights alone.
        """
        # Weights, gradients and two moments in float32.
        return 16.0 * self.parameters + 4.0 * taught_by + tokens * self.activation_bytes


def cost_of(hf: Any, reads: Literal["causal", "masked"], row_length: int) -> Cost:
    """Count a Hugging Face model's parameters, and its operations per token in rows of `row_length`.

    The model may live on the `meta` device, without weights.
    """
    embeddings = {id(m.weight): m.weight.numel() for m in hf.modules() if isinstance(m, nn.Embedding)}
    products = sum(p.numel() for p in hf.parameters() if p.ndim == 2 and id(p) not in embeddings)
    output = hf.get_output_embeddings().weight
    if id(output) in embeddings:
        products += output.numel()
    width, layers = hf.config.hidden_size, hf.config.num_hidden_layers
    seen = row_length / 2 if reads == "causal" else row_length
    # Scores and values: two products of `seen` positions over the width, in every layer.
    forward = 2.0 * products + 4 * seen * width * layers
    return Cost(
        parameters=sum(p.numel() for p in hf.parameters()),
        embedding_parameters=sum(embeddings.values()),
        forward_flops=forward,
        training_flops=3 * forward,
        output_width=output.shape[1],
        activation_bytes=16.0 * 4 * width * layers,
    )
