"""Detection: ours beside other detectors, what each part is worth, and what attacks get through.

`make bench-detection` prints all tables; the first two, `concerns` and `left_out`, are of data that nothing was chosen
on. `ARGS=--write` also writes them into benchmarks/figures, and their short form into docs/detection.md;
`ARGS="--only NAME"` runs one part. Labels are read by the evaluation, and in the first two by the choice of settings on
other data. The whole takes an hour on one core, half of it `left_out`; without the parts that train several models,
minutes. `--quick` takes two.
"""

from __future__ import annotations

import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from .attacks import attack_suite, attacked_enterprise, sensitive_exfiltration
from .attacks.attacked_enterprise import AttackedEnterprise, EnterpriseSize
from .detection import (
    ablation,
    agent_age,
    calibration,
    concern_figures,
    contamination,
    detector_comparison,
    evidence_methods,
    explanation_accuracy,
    fitted_trace,
    fleet_budgets,
    leave_out,
    stolen_identity,
    supervised_bound,
    traces,
    training_spread,
)
from .detection.fitted_trace import FittedTrace
from .detection.page_tables import NOT_ON_THE_PAGE, for_page
from .detection.report import FigureTable, markdown, replace_marked_part, write_csv
from .harness import finish, machine, options

PAGE = traces.ROOT / "docs" / "detection.md"
FIGURES = traces.ROOT / "benchmarks" / "figures"


class DetectionBenchmark:
    """What the parts share, made when the first of them asks."""

    def __init__(self, quick: bool, trainings: int) -> None:
        self.quick = quick
        self.trainings = trainings
        self.draws = 100 if quick else 1000

    @cached_property
    def fitted_traces(self) -> list[FittedTrace]:
        """The real traces; the first alone where it must be quick."""
        return [fitted_trace.fit_trace(traces.read(name)) for name in traces.TRACE_SETS[: 1 if self.quick else None]]

    @cached_property
    def clean_enterprise(self) -> AttackedEnterprise:
        """Attacks behind a clean history."""
        return attacked_enterprise.clean_history(
            EnterpriseSize(40, 2, 3, 1, 100.0) if self.quick else EnterpriseSize(120, 7, 3, 4), 7
        )

    @cached_property
    def poisoned_enterprise(self) -> AttackedEnterprise:
        """Attacks that were part of the history."""
        return attacked_enterprise.poisoned_history(
            EnterpriseSize(40, 2, 1, 1, 100.0) if self.quick else EnterpriseSize(80, 7, 1, 5), 8
        )

    def left_out(self) -> list[FigureTable]:
        """Ours on sets and assistants that nothing was chosen on."""
        sets = [traces.read(name) for name in traces.TRACE_SETS[: 2 if self.quick else None]]
        return leave_out.run(sets, self.trainings, self.draws, self.quick)

    def concerns(self) -> list[FigureTable]:
        """Ours by the concern that each set asks about."""
        sets = [traces.read(name) for name in traces.TRACE_SETS[: 2 if self.quick else None]]
        return concern_figures.run(sets, self.trainings, self.draws)

    def new_tasks(self) -> list[FigureTable]:
        """Ours in tasks that the history does not have."""
        sets = [traces.read(name) for name in traces.TRACE_SETS[: 1 if self.quick else None]]
        return concern_figures.new_tasks(sets, self.trainings, self.draws)

    def trainings_of_one_history(self) -> list[FigureTable]:
        """What two trainings of one history differ by."""
        sets = [traces.read(name) for name in traces.TRACE_SETS[: 1 if self.quick else None]]
        return training_spread.run(sets, self.trainings)

    def side_by_side(self) -> list[FigureTable]:
        """Ours beside others."""
        return detector_comparison.run(self.fitted_traces, self.draws)

    def ablation(self) -> list[FigureTable]:
        """What each part is worth."""
        return ablation.run(self.fitted_traces, 2) if self.quick else ablation.run(self.fitted_traces)

    def oracle(self) -> list[FigureTable]:
        """What labels would give."""
        return supervised_bound.run(self.fitted_traces)

    def explanations(self) -> list[FigureTable]:
        """What is said of malicious calls."""
        return [
            table
            for name in explanation_accuracy.HIJACKED
            for table in explanation_accuracy.replayed(traces.read(name))
        ]

    def contamination(self) -> list[FigureTable]:
        """What bad sessions in the history cost."""
        sets = [fitted.trace for fitted in self.fitted_traces if not fitted.trace.by_event]
        return contamination.run(sets, 1 if self.quick else 5)

    def attacks(self) -> list[FigureTable]:
        """What is noticed, which calls wait and what gets through, pooled over ten enterprises that chose nothing."""
        size = EnterpriseSize(40, 2, 3, 1, 100.0) if self.quick else EnterpriseSize(110, 28, 3, 4, 60.0)
        seeds = range(71, 72 if self.quick else 81)
        clean = (attacked_enterprise.clean_history(size, seed) for seed in seeds)
        return attack_suite.run(clean, self.poisoned_enterprise)

    def calibration_traces(self) -> list[FigureTable]:
        """p-values of normal sessions."""
        return calibration.of_traces(self.fitted_traces)

    def calibration(self) -> list[FigureTable]:
        """p-values and false alerts of agents without attacks."""
        return calibration.of_world(self.clean_enterprise)

    def ages(self) -> list[FigureTable]:
        """What is lost on agents that are new."""
        return agent_age.run(self.clean_enterprise)

    def evidence(self) -> list[FigureTable]:
        """Ways to gather evidence over events."""
        return evidence_methods.run(self.clean_enterprise)

    def fleets(self) -> list[FigureTable]:
        """Levels of honest fleets beside the alert budget."""
        return fleet_budgets.run(fleet_budgets.FLEETS[: 1 if self.quick else None])

    def short_histories(self) -> list[FigureTable]:
        """The same behind fewer days."""
        return fleet_budgets.behind_short_histories(fleet_budgets.SHORT_HISTORIES[: 1 if self.quick else None])

    def stolen(self) -> list[FigureTable]:
        """Sessions under another agent's identity."""
        return stolen_identity.run(self.quick)

    def sensitive(self) -> list[FigureTable]:
        """Sensitive data that leaves by a usual way."""
        return sensitive_exfiltration.run(self.quick)


TRACES: dict[str, Callable[[DetectionBenchmark], list[FigureTable]]] = {
    "concerns": DetectionBenchmark.concerns,
    "new_tasks": DetectionBenchmark.new_tasks,
    "left_out": DetectionBenchmark.left_out,
    "trainings": DetectionBenchmark.trainings_of_one_history,
    "side_by_side": DetectionBenchmark.side_by_side,
    "ablation": DetectionBenchmark.ablation,
    "oracle": DetectionBenchmark.oracle,
    "explanations": DetectionBenchmark.explanations,
    "contamination": DetectionBenchmark.contamination,
    "calibration_traces": DetectionBenchmark.calibration_traces,
}
"""Parts that need the real traces."""
SIMULATED: dict[str, Callable[[DetectionBenchmark], list[FigureTable]]] = {
    "attacks": DetectionBenchmark.attacks,
    "calibration": DetectionBenchmark.calibration,
    "ages": DetectionBenchmark.ages,
    "evidence": DetectionBenchmark.evidence,
    "stolen": DetectionBenchmark.stolen,
    "fleets": DetectionBenchmark.fleets,
    "short_histories": DetectionBenchmark.short_histories,
    "sensitive": DetectionBenchmark.sensitive,
}
PARTS = {**TRACES, **SIMULATED}
SEVERAL_TRAININGS = ("concerns", "new_tasks", "left_out", "trainings", "fleets", "short_histories")
"""Parts that train several models: too long for `--quick`, unless they are asked for."""


def chosen(wanted: list[str] | None, *, quick: bool) -> list[str]:
    """Parts to run: those asked for, without what cannot run here or takes too long, which is said."""
    parts = wanted or list(PARTS)
    if quick and not wanted:
        parts = [part for part in parts if part not in SEVERAL_TRAININGS]
        print(f"SKIPPED {', '.join(SEVERAL_TRAININGS)}: minutes; ask for them with --only", file=sys.stderr)
    reason = traces.missing()
    skipped = [part for part in parts if part in TRACES] if reason else []
    if skipped:
        print(f"SKIPPED {', '.join(skipped)}: {reason}", file=sys.stderr)
    return [part for part in parts if part not in skipped]


def arguments() -> Namespace:
    """Command line."""
    parser = options("detection benchmark")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="run these parts alone")
    parser.add_argument(
        "--trainings",
        type=int,
        metavar="N",
        help="trainings of each history in concerns, left_out and trainings (10; quick: 2)",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the tables into benchmarks/figures and docs/detection.md"
    )
    return parser.parse_args()


def write_part(part: str, tables: list[FigureTable], *, page: Path = PAGE, figures: Path = FIGURES) -> None:
    """Write the whole tables into files of figures, and their short form into the page, with today's date."""
    measured = f"Measured on {time.strftime('%Y-%m-%d')}."
    write_csv(figures, part, tables, measured)
    if part not in NOT_ON_THE_PAGE:
        replace_marked_part(page, part, f"{markdown(for_page(part, tables))}\n\n{measured}")


def main() -> int:
    """Run the parts; returns the exit status."""
    given = arguments()
    warnings.simplefilter("ignore")  # other libraries' own
    bench, figures = DetectionBenchmark(given.quick, given.trainings or (2 if given.quick else 10)), {}
    for part in chosen(given.only, quick=given.quick):
        started = time.perf_counter()
        tables = PARTS[part](bench)
        figures[part] = [table._asdict() for table in tables]
        print(f"\n{markdown(tables)}\n\n{part}: {time.perf_counter() - started:.0f} s", flush=True)
        if given.write:
            write_part(part, tables)
    finish(machine("numpy", "numba", "scikit-learn"), figures, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
