"""The engine: one model on one device, which answers items from the database."""
