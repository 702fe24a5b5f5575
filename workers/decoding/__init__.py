"""Decoding: `generate` of transformers, and continuous batching, which gives the same tokens."""
