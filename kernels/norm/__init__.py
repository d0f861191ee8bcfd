"""RMS norm, alone and with the mix of streams before it."""
