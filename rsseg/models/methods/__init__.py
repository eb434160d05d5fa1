"""One file per fusion method; they never import one another."""
