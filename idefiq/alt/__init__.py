"""Alternative text: images of pages, their roles, drafts, and writing accepted texts."""
