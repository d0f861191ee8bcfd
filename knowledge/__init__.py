"""A typed graph of concepts, ranked and distilled to a score for each token.

``python -m knowledge`` does all of it; a run needs ``scores`` alone, to read the result.
"""
