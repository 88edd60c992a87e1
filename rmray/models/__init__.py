"""Models: the packed forward, the backbone that gives S scores, loading, and the Scorer. Imports no Ray, no engine."""
