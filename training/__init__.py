"""How a model is trained: optimizers, the step, the clock, ranks, checkpoints, the run folder."""
