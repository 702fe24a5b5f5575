"""Programs that an operator runs once: list GPUs, look for what is wrong, download a model."""
