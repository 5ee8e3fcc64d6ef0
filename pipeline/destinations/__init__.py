"""The storages, one module each, behind the Protocol in `base`."""
