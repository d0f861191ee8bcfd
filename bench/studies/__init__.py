"""Studies of quality: sprint, ablation, tuning, artifact, knowledge."""
