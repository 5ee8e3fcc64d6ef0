"""The REST API and the studies of the config: announcements, plans, reports."""
