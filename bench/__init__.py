"""What is measured. Results are committed under ``bench/results/`` as the commands printed them."""
