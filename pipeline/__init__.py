"""The data path: source, envelope, destinations, worker. No tus, no HAWK, no SQLite in it."""
