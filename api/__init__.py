"""The HTTP interface: accepts jobs, reports on them, and loads no model."""
