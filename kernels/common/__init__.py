"""What several operations share: rows, sums, side streams, launches, Hopper's tiles."""
