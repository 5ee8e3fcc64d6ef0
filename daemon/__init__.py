"""dropoffd, the service: decides, remembers, reports."""

__version__ = "0.1.0"
SOFTWARE = f"dropoffd {__version__}"
