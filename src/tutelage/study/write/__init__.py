"""An LLM plans tasks, writes texts and labels them."""
