"""Log-probabilities of many strings: causal, masked and encoder-decoder models."""
