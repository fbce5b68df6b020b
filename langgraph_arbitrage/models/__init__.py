"""Checks and loads checkpoints: weights, configs, tokenizers, quantization and memory needs."""
