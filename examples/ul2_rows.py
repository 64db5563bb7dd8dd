"""Print some training rows of a model with the objective `ul2`, as text.

    python examples/ul2_rows.py RECIPE MODEL [HOW_MANY]

The recipe's corpus is prepared in `runs/` if it is not there yet. `|` stands before the first token that is asked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tutelage.corpus.batches import IGNORE
from tutelage.experiment.setup import Experiment
from tutelage.recipe.load import load_recipe
from tutelage.training.parallel import process_group


def main() -> None:
    """Print the first rows that the model reads."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    name, how_many = sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 10
    with process_group() as group:
        experiment = Experiment(load_recipe(sys.argv[1]), Path("runs"), group)
        if name not in experiment.recipe.models:
            sys.exit(f"no model '{name}' in this recipe (models: {', '.join(experiment.recipe.models)})")
        model, tokenizer = experiment.recipe.models[name], experiment.data.tokenizer
        batch = experiment.rows.training(model).with_batch_rows(how_many).batch(0)
    lengths = batch.real_BT.sum(1).tolist()
    for row, tokens, targets, length in zip(batch.rows_B, batch.tokens_BT, batch.targets_BT, lengths, strict=True):
        asked_from = int((targets != IGNORE).nonzero()[0]) + 1
        given, asked = (tokenizer.decode(part) for part in (tokens[:asked_from], tokens[asked_from:length]))
        print(f"row {row}: {given} | {asked}\n")


if __name__ == "__main__":
    main()
