"""The MLP: two products around a squared leaky ReLU."""
