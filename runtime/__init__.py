"""What every program needs: ranks, device, graphs, run folder, checkpoint, progress, plot."""
