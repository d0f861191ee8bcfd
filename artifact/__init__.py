"""The file that counts against 16,000,000 bytes: quantise, pack, unpack."""
