"""The HTTP face: takes jobs, tells of them, and loads no model."""
