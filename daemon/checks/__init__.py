"""What can be known before the first upload: `dropoffd check`."""
