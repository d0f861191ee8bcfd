"""How anything is measured: contests against peers, bars, baselines, timelines."""
