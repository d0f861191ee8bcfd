"""Code of several operations: rows, sums, side streams, launches, Hopper's tiles."""
