"""Webhooks: where owners want events delivered, and the outbox of deliveries."""
