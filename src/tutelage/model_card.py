"""The README of an exported model."""

from __future__ import annotations

from tutelage.recipe import Recipe
from tutelage.run_folder import Json


def model_card(what: Recipe, name: str, seed: int, done: Json) -> str:
    """Write the README of an exported model."""
    model = what.models[name]
    teachers = ", ".join(str(t) for stage in model.stages for t in stage.teachers) or "none"
    kind = "fill-mask" if model.reads == "masked" else "text-generation"
    return f"""---
library_name: transformers
pipeline_tag: {kind}
tags: [tutelage]
---

# {what.name}: {name}[{seed}]

{what.description or "A small language model."}

| | |
|---|---|
| shape | {model.preset or model.weights or done["architecture"]}, {done["cost"]["parameters"]:,} parameters |
| corpus | `{what.data.corpus}` |
| teachers | {teachers} |
| read | {done["words"]:,} words ({done["epochs"]:.1f} passes), {done["steps"]:,} steps |
| held-out loss (`val`) | {done["val"]["loss"]:.4f} nats a token, {done["val"]["bits_per_byte"]:.4f} bits a byte |

Trained with `tutelage`. Check the corpus's licence before you pass these weights on.
"""
