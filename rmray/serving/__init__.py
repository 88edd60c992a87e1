"""Serving: plan batches, run the engine, answer HTTP; `app` is the only door to Ray Serve."""
