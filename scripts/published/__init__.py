"""Published measurements, the constants that predict them, and the predictions: one module a table."""
