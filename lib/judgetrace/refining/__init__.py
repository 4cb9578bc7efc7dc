"""From traces to a clearer guideline: which traces are read, which candidates are sound, which one wins."""
