"""The page of a transferability experiment."""

from ..html import Figure, Page, Section, Tile
from . import paper
from .accuracy import accuracy_figure, of_the_paper
from .claims import COLLAPSE, MARGIN, Claim, claims, sentence, verdicts
from .figures import (
    difference_figure,
    dissimilar_figure,
    drop_figure,
    random_figure,
    shots_figure,
    time_figure,
)
from .filters import filter_pictures
from .missing import missing
from .reading import KINDS, Experiment
from .tables import (
    base_table,
    boost_table,
    check_sentence,
    claims_table,
    difference_tables,
    extra_table,
    measures_table,
    run_table,
)

__all__ = ["transferability_page"]

_RULE = (
    f"A fall is reproduced where its whole 95 % interval is below 0, and not reproduced where the "
    f"interval leaves no room for a fall of {MARGIN:g} point (of a slope: over the whole network). "
    f"That nothing is lost is reproduced where the interval leaves no room for a loss of "
    f"{MARGIN:g} point, and not where all of it is below 0. Random features have collapsed where "
    f"the interval is below {COLLAPSE:g} % of the base. Everything else is not decided."
)


def transferability_page(experiment: Experiment, *, with_paper: bool = True) -> Page:
    """The page as data.

    Args:
        with_paper: lay the paper's curves and numbers beside ours
    """
    found = claims(experiment)
    pictures, without = filter_pictures(experiment)
    page = Page(experiment.title, _subtitle(experiment), verdicts(found))
    page.tiles = [Tile(sentence(c.short), c.number.split(" (")[0], _tile_note(c)) for c in found]
    page.missing = [*missing(experiment), *without]
    filters = Section(
        "First layer",
        [*pictures],
        "Filters of each base after training and before, each from its own darkest to its own "
        "brightest weight. Edges and blobs of colour have neighbouring weights that are alike "
        "(correlation, 0 of noise); in the paper every network has learned such filters.",
    )
    sections = [
        _claims(found),
        _over_n(experiment, with_paper),
        _dissimilar(experiment, with_paper),
        _boost(experiment, with_paper),
        _further(experiment),
        filters,
        _differences(experiment),
        Section("Runs", [base_table(experiment), run_table(experiment)]),
    ]
    page.sections = [section for section in sections if section.parts]
    page.footer = (
        "Made from the files of the run folders by tools/report_transferability.py; "
        "transferability.csv has every run and transferability_differences.csv every difference. "
        "docs/reports.md says how each number is defined."
    )
    return page


def _subtitle(experiment: Experiment) -> str:
    runs, layers = experiment.runs, len(experiment.layers)
    seeds = len({run.seed for run in runs})
    splits = len(experiment.splits)
    return (
        f"{len(experiment.finished)} of {len(runs)} runs finished · {splits} "
        f"split{'s' * (splits != 1)} · {seeds} seed{'s' * (seeds != 1)} · {layers} layers"
    )


def _tile_note(claim: Claim) -> str:
    return f"{claim.unit}; {claim.verdict}" if claim.estimate else claim.verdict


def _claims(found: list[Claim]) -> Section:
    section = Section(
        "Claims",
        [claims_table(found), *(f"{sentence(c.short)}: {c.why}." for c in found if c.why)],
        "A pair is a run and the base of the same split, target and seed: targets differ more than "
        "treatments do. Intervals are Student's over pairs, 95 %. Of six claims at 95 % each, one "
        "in about four experiments has one that is wrong by chance.",
    )
    section.parts.append(measures_table(found, _RULE))
    return section


def _over_n(experiment: Experiment, with_paper: bool) -> Section:
    parts: list[Figure | None] = []
    for kind in experiment.kinds:
        parts.append(accuracy_figure(experiment, kind))
        if with_paper and kind == experiment.kinds[0]:
            parts.append(of_the_paper())
        parts.append(difference_figure(experiment, kind, with_paper))
        parts.append(drop_figure(experiment, kind, with_paper))
    section = Section(
        "Where the network is general and where specific",
        [part for part in parts if part],
        "A network of the target task (base); its own first n layers copied and frozen (BnB), or "
        "copied and trained further (BnB+); the same with layers of the other task (AnB, AnB+). "
        "What is above n begins anew.",
    )
    check = check_sentence(experiment)
    if check:
        section.parts.append(check)
    return section


def _dissimilar(experiment: Experiment, with_paper: bool) -> Section:
    parts = [random_figure(experiment, kind, with_paper) for kind in experiment.kinds]
    if "dissimilar" in experiment.kinds:
        parts.insert(0, dissimilar_figure(experiment, with_paper))
    return Section("Dissimilar tasks and random features", [part for part in parts if part])


def _boost(experiment: Experiment, with_paper: bool) -> Section:
    table = boost_table(experiment, with_paper)
    over_time = [time_figure(experiment, kind) for kind in experiment.kinds]
    lead = (
        "Points that AnB+ brings, mean over the layers kept, then over pairs. Table 1 of the paper."
    )
    if with_paper and len(experiment.layers) == paper.LAYERS:
        lead += (
            " The paper's own numbers are not within targets; from its released logs the boost "
            "over the base can be, and is smaller, while of AnB+ over BnB+ no target has both."
        )
    return Section(
        "What is won by transfer with fine-tuning",
        [part for part in (table, *over_time) if part],
        lead,
    )


def _further(experiment: Experiment) -> Section:
    shots = [shots_figure(experiment, kind) for kind in experiment.kinds]
    extra = extra_table(experiment)
    lead = ""
    if extra:
        lead = (
            "Points to the base with further layers above n copied but not frozen (not published "
            "in the paper): does that cure co-adaptation?"
        )
    title = "Fewer examples, further layers"
    return Section(title, [part for part in (*shots, extra) if part], lead)


def _differences(experiment: Experiment) -> Section:
    kinds = ", ".join(f"{KINDS[kind]}s" for kind in experiment.kinds)
    return Section(
        "Every difference",
        list(difference_tables(experiment)),
        f"Mean over pairs with its 95 % interval, in points of top-1: {kinds}.",
    )
