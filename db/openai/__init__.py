"""Files and batches of OpenAI's API: rows beside the jobs that carry them out."""
