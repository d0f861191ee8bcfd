"""How weights change: loop, step, optimizer, schedule, budget, averages, snapshots."""
