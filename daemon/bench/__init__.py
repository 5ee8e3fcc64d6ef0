"""What this machine and its destinations can do, measured by what the service does itself."""
