"""The record: what a job is, in which states it can be, and every SQL statement."""
