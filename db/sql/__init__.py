"""The database beneath all rooms: connections, statements, the clock and the schema's version."""
