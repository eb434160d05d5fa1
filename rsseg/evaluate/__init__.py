"""One model, every subset of its sensors, one table."""
