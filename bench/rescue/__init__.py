"""Troubles planted in runs, and what saves a run from them."""
