"""Codes to bytes and back: container, header, entropy coding."""
