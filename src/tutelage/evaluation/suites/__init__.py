"""Benchmarks of choices between options: where their files come from, how they are read, how they are scored."""
