"""Weights to codes: GPTQ, low-rank corrections, Hessians, the search for a size."""
