"""A scorer and comparisons in, figures out. Called by the command line and by reports.

`run.evaluate` takes any Scorer and any records; `bundle.evaluate_bundle` opens both from files. `record` holds what
comes out, `table` shows it in a terminal.
"""

from rmray.evaluation.record import Evaluation
from rmray.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]
