"""Other people's libraries on this service, unmodified: `make test-clients`."""
