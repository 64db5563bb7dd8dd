"""The README of an exported model."""

from __future__ import annotations

from collections.abc import Mapping

from tutelage.base.types import Json
from tutelage.recipe import Recipe


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


def babylm_card(
    what: Recipe,
    name: str,
    seed: int,
    done: Json,
    *,
    year: str,
    revision: str,
    words: int,
    corpus: str,
    tokenizer: str,
    scores: Mapping[str, str],
) -> str:
    """Write the README of a model that is handed in to BabyLM, or of one of its checkpoints.

    Args:
        what: the recipe.
        name: of the model.
        seed: of the model.
        done: what its training came to.
        year: of the challenge.
        revision: `main`, or a checkpoint's name.
        words: seen up to here, repeats included.
        corpus: in words.
        tokenizer: in words.
        scores: of this revision by benchmark, in words.
    """
    model = what.models[name]
    teachers = ", ".join(str(t) for stage in model.stages for t in stage.teachers) or "none"
    kind = "fill-mask" if model.reads == "masked" else "text-generation"
    loader = "AutoModelForMaskedLM" if model.reads == "masked" else "AutoModelForCausalLM"
    measured = "".join(f"| {benchmark} | {score} |\n" for benchmark, score in scores.items())
    table = f"\n| benchmark | score |\n|---|---|\n{measured}" if scores else "\nNot measured for this revision.\n"
    return f"""---
library_name: transformers
pipeline_tag: {kind}
language: en
tags: [tutelage, babylm, babylm-{year}]
# license: yours to choose; it must agree with the corpus's
---

# {what.name}: {name}[{seed}], {revision}

{what.description or "A small language model."}

| | |
|---|---|
| revision | `{revision}`: {words:,} words seen, repeats included |
| base model | {model.weights or "none: trained from random weights"} |
| shape | {model.preset or done["architecture"]}, {done["cost"]["parameters"]:,} parameters |
| corpus | {corpus} |
| whole training | {done["words"]:,} words ({done["epochs"]:.1f} passes), {done["steps"]:,} steps |
| teachers | {teachers} |
| tokenizer | {tokenizer} |
| licence | to be chosen by the authors |

## Evaluation
{table}
## Use

```python
from transformers import AutoTokenizer, {loader}

model = {loader}.from_pretrained("USER/NAME", revision="{revision}")
tokenizer = AutoTokenizer.from_pretrained("USER/NAME", revision="{revision}")
```

Trained with `tutelage`. Check the corpus's licence before you pass these weights on.
"""
