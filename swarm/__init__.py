"""What steers a run while it runs. ``levers`` is the window into the step."""
