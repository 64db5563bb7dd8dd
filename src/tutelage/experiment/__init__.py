"""A recipe is resolved and run: data, models in their order, caches, selections, training, scores, summary."""
