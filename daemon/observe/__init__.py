"""Log, metrics and audit."""
