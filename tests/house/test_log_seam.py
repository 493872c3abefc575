"""Another log than Kafka would change few modules: those whose code names Kafka, outside of `ingest/kafka`."""

from __future__ import annotations

import ast
import io
import tokenize

from tests.support.checkout import ROOT

FOLDERS = ("ingest", "models", "scoring", "api", "client", "lab", "simulator", "trustwatch")
MOST = 15

NAMES_KAFKA = {
    "api/brokers.py": "opens what reads and writes topics: the choice of the log",
    "api/cli/history_input.py": "`kafka:` names a history on the command line",
    "api/feedback/routes.py": "`kafka` is a source of a preview in the API",
    "api/feedback/worker.py": "the same",
    "api/service/commands.py": "`trustwatch topics` makes and shows Kafka's topics",
    "api/settings/loading.py": "the variable that names brokers, and the advice to set it",
    "api/settings/access_settings.py": "the settings `kafka`",
    "api/settings/removed.py": "names of removed settings of `kafka`",
    "api/settings/root.py": "the member `kafka`, for everybody else `brokers`",
    "ingest/extras.py": "the extras `kafka` and `fast`",
    "ingest/topics/record_codec.py": "dead letters say which key and which CloudEvents Kafka's standard asks for",
    "simulator/commands.py": "`--kafka` names brokers",
}
"""Modules, and why each does."""


def names_kafka(source: str) -> bool:
    """Tell whether code names Kafka, a client of it included; comments and docstrings may."""
    words = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return any(
        token.type != tokenize.COMMENT
        and token.start[0] not in words
        and any(name in token.string.lower() for name in ("kafka", "confluent"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
    )


def test_few_modules_know_the_program_that_keeps_topics() -> None:
    """They are exactly these, and no more than fifteen."""
    found = {
        name
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not (name := path.relative_to(ROOT).as_posix()).startswith("ingest/kafka/")
        and names_kafka(path.read_text(encoding="utf-8"))
    }
    assert found == set(NAMES_KAFKA)
    assert len(found) <= MOST


def test_the_rule_bites() -> None:
    """A name, an import and a text are code; what explains is not."""
    assert names_kafka("class KafkaBackend: ...")
    assert names_kafka("from ..settings.access_settings import KafkaSettings")
    assert names_kafka("raise ValueError('Kafka is away')")
    assert names_kafka("if settings.client == 'confluent': ...")
    assert not names_kafka('"""With Kafka."""\nat = 1\n"""As Kafka has it."""\n# kafka-python waits here')
