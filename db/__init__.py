"""The database: states, errors and every SQL statement of a job's life."""
