"""The file that counts against 16,000,000 bytes: quantise, pack, unpack."""

ROUNDTRIP = "roundtrip"
"""What a run's scores call the weights that its artifact gives back."""
