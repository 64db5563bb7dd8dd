"""An LLM in, a labelled corpus out: it plans the tasks, writes the texts and labels them (Kamzela et al. 2025)."""
