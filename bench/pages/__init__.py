"""Parts of the documentation that are generated from the results."""
