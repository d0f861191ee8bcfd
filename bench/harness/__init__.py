"""The tools of measuring: contests against peers, targets, baselines, timelines."""
