"""Envelopes: how plaintext becomes the bytes that are stored, and back."""
