"""Benchmarks. Results are committed under ``bench/results/`` as the commands printed them."""
