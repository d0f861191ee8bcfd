"""What every program needs: ranks, device, graphs, run folder, checkpoint, progress, plot."""

ROUNDTRIP = "roundtrip"
"""What a run's log and scores call the weights that its artifact gives back."""
