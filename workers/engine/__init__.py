"""An engine: a model pinned to a device, fed from the record in batches."""
