"""A contest's folder: the code as one file, its size, scores over seeds."""
