"""Two commits compared: one process in each tree, timed in turn."""
