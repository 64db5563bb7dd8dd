"""Parts of one's own for a recipe, outside the package: an objective, a suite, a cleaning function. See README.md."""
