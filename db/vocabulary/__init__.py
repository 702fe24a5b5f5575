"""The words of the service: states, errors, requests, items and model descriptions. No SQL."""
