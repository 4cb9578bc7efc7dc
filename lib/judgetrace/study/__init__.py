"""A whole study: which stages it has, which of them are done, and running the others in order."""
