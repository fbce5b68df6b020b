"""Checkpoints: loading, tokenizers, quantization, memory, and the pair of draft and target."""
