"""The journal: what dropoffd remembers. Everybody knows it; it knows nobody."""
