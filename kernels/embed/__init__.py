"""Token, bigram and value embeddings."""
