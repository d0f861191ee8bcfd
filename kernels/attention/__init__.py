"""Causal grouped-query attention: norm, rotary, softmax, values, XSA and gate."""
