"""The page of a transferability experiment, from the files of its plan folder.

"How transferable are features in deep neural networks?" (Yosinski et al., NIPS 2014): where a
network is general and where specific. :mod:`reading` says what was run, :mod:`differences` holds
every run to its own base, :mod:`claims` decides what the paper claims.
"""

from pathlib import Path

from ...run_folder import replacing
from ..html import render
from .collecting import (
    KIND,
    claims_in_markdown,
    collect,
    differences_in_markdown,
    runs_in_markdown,
)
from .csv_files import DIFFERENCE_COLUMNS, RUN_COLUMNS, difference_rows, run_rows, write_csv
from .page import transferability_page
from .reading import Experiment, read_experiment

__all__ = [
    "KIND",
    "Experiment",
    "claims_in_markdown",
    "collect",
    "differences_in_markdown",
    "read_experiment",
    "runs_in_markdown",
    "transferability_page",
    "write",
]

PAGE = "transferability.html"
RUNS = "transferability.csv"
DIFFERENCES = "transferability_differences.csv"


def write(folder: str | Path, *, with_paper: bool = True) -> Path:
    """Write the page and its two tables into a plan folder.

    Args:
        folder: of tools/run_transferability.py; runs may have failed or be still to come
        with_paper: lay the paper's curves and numbers beside ours

    Returns:
        the page

    Raises:
        UserError: it is no such folder, or no run in it is finished
    """
    experiment = read_experiment(folder)
    page = Path(folder) / PAGE
    write_csv(Path(folder) / RUNS, RUN_COLUMNS, run_rows(experiment))
    write_csv(Path(folder) / DIFFERENCES, DIFFERENCE_COLUMNS, difference_rows(experiment))
    text = render(transferability_page(experiment, with_paper=with_paper))
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page
