"""Output head, softcap and cross-entropy without whole logits in memory."""
