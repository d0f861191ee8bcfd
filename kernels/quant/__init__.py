"""Weights copied to the compute dtype, as they are or rounded to int6."""
