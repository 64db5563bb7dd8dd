"""BabyLM: tracks and their rules, result files, upload folders."""
