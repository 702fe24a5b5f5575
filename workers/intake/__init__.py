"""Intake: brings every image into the blob store and checks it once, without torch."""
