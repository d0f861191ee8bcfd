"""Proofs that a score is lawful: causality, accounting, test-time training."""
