"""How uploads become known: the tus server's files, the hook spool, hooks."""
