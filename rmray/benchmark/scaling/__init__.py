"""Serving past this machine: the batching and scaling policies as they are, on a virtual clock.

`app` puts it together and `simulation` runs it: `load` makes calls, `routing` finds them a replica, `replica` batches
and scores them, `autoscaler` says how many replicas there are, and `cost` how long a forward takes. `grid` compares
settings, `validation` compares the simulation with a real engine. No Ray process runs.
"""
