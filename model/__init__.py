"""The network: ``config`` (its numbers, torch-free), ``gpt`` and ``init``."""
