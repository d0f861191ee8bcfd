"""This tree against another commit: one process in each tree, timed in turn."""
