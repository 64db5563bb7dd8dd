"""Float32 products of a 10M Llama's shapes: torch's own (MKL) against oneDNN, forward and for both gradients.

    python benchmarks/products.py

Needs nothing but tutelage. Rounds go through both libraries in turn; medians.
"""

from __future__ import annotations

import time

import torch
from common import Json, arguments, median, table
from common import write as write_page

from tutelage.base import machine
from tutelage.models import products

SHAPES = ((4096, 256, 256), (4096, 256, 1024), (4096, 1024, 256), (4096, 256, 8000), (4096, 4096, 4096))
"""Rows, inputs, outputs of a linear layer."""


def rates(rows: int, inputs: int, outputs: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return GFLOP/s of torch and of oneDNN for a layer's product and for its gradients."""
    x, w, g = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
    ways = {
        "forward": (lambda: x @ w.t(), lambda: products._onednn(x, w, None)),
        "inputs' gradient": (lambda: g @ w, lambda: products._onednn(g, w.t(), None)),
        "weights' gradient": (lambda: g.t() @ x, lambda: products._wide(g, x)),
    }
    found = {}
    for name, both in ways.items():
        seconds: list[list[float]] = [[], []]
        for _ in range(rounds + 2):
            for way, times in zip(both, seconds, strict=True):
                began = time.perf_counter()
                way()
                times.append(time.perf_counter() - began)
        found[name] = tuple(2e-9 * rows * inputs * outputs / median(times[2:]) for times in seconds)
    return found


def main() -> None:
    """Measure and write down."""
    args = arguments(__doc__, rounds=9, steps=1)
    machine.set_up()
    data: Json = {str(shape): rates(*shape, args.rounds) for shape in SHAPES}
    rows = [
        (shape, name, f"{mkl:,.0f}", f"{onednn:,.0f}", f"{onednn / mkl:.2f}")
        for shape, found in data.items()
        for name, (mkl, onednn) in found.items()
    ]
    text = table(("rows, inputs, outputs", "product", "torch, GFLOP/s", "oneDNN, GFLOP/s", "ratio"), rows, left=2)
    write_page("products", "Float32 products by two libraries", text, {"rates": data}, args)


if __name__ == "__main__":
    main()
