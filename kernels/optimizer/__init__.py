"""Muon, AdamW, gradient norm and a step's statistics, fused over tensors."""
