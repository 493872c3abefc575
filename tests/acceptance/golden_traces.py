"""What `replay` makes of real traces, in figures: `python -m tests.acceptance.golden_traces` records them anew.

The traces are not ours to keep: of each set there are a few sums, and a digest of all lines with floats of nine digits.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from ..golden.support import Row, digest, read_rows, run
from ..support.checkout import ROOT

SHARED = Path(os.environ.get("TRUSTWATCH_SHARED") or ROOT.parent / "shared")
DATA = SHARED / "data"
GOLDEN = Path(__file__).with_name("golden_traces.json")
SETS = ("agentdojo", "agentdyn", "ats", "cloudtrail")
MOST = 12_000
"""Events of a set that are replayed: agentdyn has 45,280 of one kind."""
SALT = "73616c74206f662074686520676f6c64656e20747261636573"


def figures(name: str, folder: Path) -> dict[str, Row]:
    """Figures of a set by the option of learning, from one model. Training gives the same model for the same salt."""
    model, test = folder / "model", folder / "test.jsonl"
    run("train", DATA / name / "train.jsonl.gz", "--model", model, "--salt", SALT, "--seed", 7, "--version", "golden")
    lines = gzip.decompress((DATA / name / "test.jsonl.gz").read_bytes()).splitlines()[:MOST]
    test.write_bytes(b"\n".join(lines))
    found = {}
    for option in ("--learn", "--no-learn"):
        out = folder / "scores.jsonl"
        summary = json.loads(run("replay", test, "--model", model, "--out", out, option, "--json"))
        found[option] = {"decisions": summary["decisions"], "late": summary["late"], **of_lines(read_rows(out))}
    return found


def of_lines(lines: list[Row]) -> Row:
    """Counts and sums of the lines of a replay, and the digest of all of them."""
    reasons = Counter(reason["code"] for line in lines for reason in line["reasons"])
    return {
        "events": len(lines),
        "levels": dict(sorted(Counter(line["risk_level"] for line in lines).items())),
        "anomaly_scores": round(sum(line["anomaly_score"] for line in lines), 6),
        "risk_scores": round(sum(line["risk_score"] for line in lines), 6),
        "reasons": dict(sorted(reasons.items())),
        "sha256": digest(nine_digits(line) for line in lines),
    }


def nine_digits(value: Any) -> Any:
    """The same value with floats that do not depend on the kind of machine."""
    if isinstance(value, dict):
        return {name: nine_digits(one) for name, one in value.items()}
    if isinstance(value, list):
        return [nine_digits(one) for one in value]
    return f"{value:.9g}" if isinstance(value, float) else value


def main() -> None:
    """Record anew what is at hand."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for name in SETS:
        if (DATA / name).is_dir():
            with tempfile.TemporaryDirectory() as folder:
                golden[name] = figures(name, Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
