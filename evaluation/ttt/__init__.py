"""Score-first test-time training: all weights by SGD, or adapters of each document."""
