"""Benchmarks of the swarm's cost."""
