"""What the swarm costs."""
