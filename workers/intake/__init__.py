"""Intake: fetches, stores and checks every image, without torch."""
