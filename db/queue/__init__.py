"""The queue: jobs and their items, from the submission to the deletion."""
