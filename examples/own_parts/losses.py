"""An objective: `"own_parts.losses:focal": {weight: 0.5, gamma: 2}`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Cross-entropy that counts less where the model is already right (Lin et al. 2017, equation 4).

    Args:
        logits: `(n, V)` float32, of some positions.
        targets: the right token of each, `(n,)`.
        gamma: 0 is plain cross-entropy; the larger, the less easy tokens count.

    Returns:
        The loss of each position, `(n,)`.
    """
    log_p = -F.cross_entropy(logits, targets, reduction="none")
    return -((1 - log_p.exp()) ** gamma) * log_p
