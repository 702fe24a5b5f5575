"""Grammars of structured answers, and their check in a process that may die of them."""
