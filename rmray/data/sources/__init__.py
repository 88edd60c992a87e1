"""Read any supported file or dataset: source -> files -> raw rows -> records. No Ray, no torch.

Called by `prepare` (which hands rows to its actors) and, through `read_records`, by evaluation and scoring.
"""

from rmray.data.sources.files import InputFile, find_files
from rmray.data.sources.read import check_source, parse_row, read_raw_rows, read_records
from rmray.data.sources.records import check_columns, record_from_row

__all__ = [
    "InputFile",
    "check_columns",
    "check_source",
    "find_files",
    "parse_row",
    "read_raw_rows",
    "read_records",
    "record_from_row",
]
