"""Text in, token batches out: shards, tokenizer, preparation and the batch loader."""
