"""The network: ``config`` (numbers, torch-free), ``blocks``, ``gpt``, ``init``, ``parameters``."""
