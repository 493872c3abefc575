"""Fuzz the parsers with atheris: `python -m tests.fuzz.run [--seconds N] [--seed N] [TARGET …]`.

Each target runs in a process of its own, from the corpus in the repository, which is not changed. What breaks a promise
is written to `var/fuzz/TARGET/`: mend the parser, then put the input into `tests/fuzz/corpus/TARGET/`, where every run
of the tests tries it again.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = Path("var/fuzz")
MAX_INPUT_BYTES: Final = 8_192
MAX_RSS_MB: Final = 2_048
INSTRUMENTED: Final = [
    "jwt",
    "trustwatch.api.access.call_evaluation",
    "trustwatch.api.events.service",
    "trustwatch.api.http.auth",
    "trustwatch_client.argument_origins",
    "trustwatch.ingest.events",
    "trustwatch.ingest.formats",
    "trustwatch.ingest.history",
    "trustwatch.ingest.log.segment_import",
    "trustwatch.models.array_rules",
    "trustwatch.models.model_directory",
    "trustwatch.scoring.pipeline.risk_topic_reader",
    "trustwatch.scoring.store.database",
]
"""Packages whose branches lead the fuzzer."""
BLIND: Final = {"scanner", "model_arrays"}
"""Targets whose inputs are those of the corpus, changed at random: the compiler of the kernels takes no instrumented
code, and without it libFuzzer takes all inputs for the same and goes on from one."""
MAX_MUTATIONS: Final = 8
START_S: Final = 10
"""Time that a target takes to begin, at the least."""
SLOW_INPUT_S: Final = 10
"""An input that takes longer is a finding: whoever sends it stops the others."""


def fuzz(name: str, seconds: int, seed: int) -> None:
    """Fuzz one target in this process, which ends with it; *seed* 0: other draws each time."""
    import atheris  # an extra of its own (`fuzz`); the tests of the corpus do without

    with nullcontext() if name in BLIND else atheris.instrument_imports(include=INSTRUMENTED):
        from .targets import TARGETS
    FOUND.joinpath(name, "corpus").mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-rss_limit_mb={MAX_RSS_MB}",
        f"-timeout={SLOW_INPUT_S}",
        f"-artifact_prefix={FOUND / name}/",
        "-print_final_stats=1",
        str(FOUND / name / "corpus"),
        str(CORPUS / name),
    ]
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    for data in inputs:
        TARGETS[name](data)  # kernels are compiled before the fuzzer looks at the clock

    def change_one(_data: bytes, max_size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        changed = dice.choice(inputs)
        for _ in range(dice.randint(1, MAX_MUTATIONS)):
            changed = atheris.Mutate(changed, max_size)
        return changed

    custom = {"custom_mutator": change_one} if name in BLIND else {}
    atheris.Setup([sys.argv[0], *arguments, *(["-len_control=0"] if custom else [])], TARGETS[name], **custom)
    atheris.Fuzz()


def run_target(name: str, seconds: int, seed: int, ends: float) -> tuple[str, int | None, str]:
    """Fuzz one target in a process of its own: its name, exit status (None: there was no time), and what it said."""
    if time.monotonic() + seconds + START_S > ends:
        return name, None, ""
    command = [sys.executable, "-m", "tests.fuzz.run", "--here", "--seconds", str(seconds), "--seed", str(seed), name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return name, done.returncode, done.stdout


def main() -> int:
    """Run the targets that are asked for; 1 where one found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="by default all")
    parser.add_argument("--seconds", type=int, default=10, help="time of each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument(
        "--within", type=float, default=math.inf, help="begin no target that would not end in so long, s"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same draws each time; 0: others")
    parser.add_argument("--here", action="store_true", help="one target, in this process")
    given = parser.parse_args()
    if given.here:
        fuzz(given.targets[0], given.seconds, given.seed)
        return 0
    names = given.targets or sorted(folder.name for folder in CORPUS.iterdir() if folder.is_dir())
    ends = time.monotonic() + given.within
    if math.isfinite(given.within):
        random.Random(given.seed or None).shuffle(names)  # who finds no time today has its turn tomorrow
    failed = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for name, status, said in pool.map(lambda name: run_target(name, given.seconds, given.seed, ends), names):
            if status is None:
                sys.stdout.write(f"{name}: left out, there was no time\n")
                continue
            tries = next((line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line), "?")
            sys.stdout.write(f"{name}: {'held' if status == 0 else 'BROKEN'}, {tries} inputs\n")
            if status:
                failed = 1
                sys.stdout.write(said[-4000:])
            sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
