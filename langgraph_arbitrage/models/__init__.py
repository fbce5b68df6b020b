"""Checkpoints: specs, validation, loading, tokenizers, quantization and memory."""
