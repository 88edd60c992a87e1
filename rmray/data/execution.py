"""How an execution of Ray Data runs here: quietly, in small blocks, and an error of a task comes out as itself.

Called by `prepare` and by `evaluation.distributed`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ray.data import DataContext, Dataset

from rmray.errors import RmrayError

BLOCK_BYTES = 8 * 2**20  # small blocks, for small object stores
# Plans and resource use of each execution; a warning that progress bars, which we turn off, are off.
_LOG_LEVELS = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}


def dataset_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Rows of a dataset; an rmray error of a task comes out as itself."""
    try:
        yield from dataset.iter_rows()
    except Exception as error:  # Ray wraps what a task raised
        cause: BaseException | None = error
        while cause is not None and (not isinstance(cause, RmrayError) or hasattr(cause, "cause")):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise cause from None


@contextlib.contextmanager
def quiet_data_context() -> Iterator[None]:
    """Small blocks, no progress bars: the ledger is what we print. The caller's own context is left as it was."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    before = {name: logging.getLogger(name).level for name in _LOG_LEVELS}
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    try:
        with DataContext.current(context):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
