"""Names for types that every other room uses: JSON objects, arrays by what they hold, arithmetic."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
"""A JSON object, or another plain tree of texts, numbers, lists and mappings."""
Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Precision = Literal["fp32", "bf16"]
"""Arithmetic of a model."""
