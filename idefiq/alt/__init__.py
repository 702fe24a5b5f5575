"""Alternative text: images of pages, their roles, drafts, and writing what was accepted."""
