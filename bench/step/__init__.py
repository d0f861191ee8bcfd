"""Benchmarks of a whole step, its start and several GPUs."""
