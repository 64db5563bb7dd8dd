"""Names for types that every other room uses: JSON objects, and arrays by what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Json = dict[str, Any]
"""A JSON object, or another plain tree of texts, numbers, lists and mappings."""
Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
