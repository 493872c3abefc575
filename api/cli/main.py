"""The command `trustwatch`: all commands in one place."""

from __future__ import annotations

import sys

import structlog
import typer

from ...ingest.errors import TrustwatchError
from ...lab import commands as lab
from ...simulator import commands as simulation
from ..access import commands as containment
from ..alerts import commands as alerts
from ..archive import commands as archive
from ..backtest import commands as backtest
from ..feedback import commands as feedback
from ..models import commands as models
from ..privacy import commands as privacy
from ..service import commands as service
from ..service import commands as topics
from ..structured_logs import configure_structured_logs
from . import history_input, remote
from .terminal import fail

app = typer.Typer(
    name="trustwatch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Continuous trust for AI agents: audit events in, explained and calibrated risk out.",
)
app.command("serve")(service.serve)
app.command("train")(history_input.train_command)
app.command("replay")(history_input.replay_command)
app.command("backtest")(backtest.backtest_command)
app.command("archive")(archive.archive_command)
app.command("ingest")(remote.ingest)
app.command("agents")(remote.agents)
app.command("explain")(remote.explain)
app.command("release")(remote.release)
app.command("pin")(containment.pin)
app.command("unpin")(containment.unpin)
app.command("blast-radius")(containment.blast_radius)
app.add_typer(containment.approvals_app)
app.command("erase")(privacy.erase)
app.command("export")(privacy.export)
app.add_typer(privacy.decisions_app)
app.command("simulate")(simulation.simulate_command)
app.add_typer(topics.topics_app)
app.add_typer(alerts.alerts_app)
app.add_typer(feedback.feedback_app)
app.add_typer(models.models_app)
app.command("lab")(lab.lab_command)
app.command("token")(service.token)
app.command("demo")(service.demo)
app.command("console-link")(service.console_link)


def main() -> None:
    """Entry point of the `trustwatch` script."""
    configure_structured_logs()
    try:
        app()
    except TrustwatchError as error:
        raise SystemExit(_exit_status(error)) from None
    except BrokenPipeError:
        # The reader of our output (`head`) has enough; say nothing, and let nothing be flushed into the closed pipe.
        sys.stderr.close()
        raise SystemExit(1) from None
    except OSError as error:  # a file that can not be written, a full disk: the operator's to mend, not ours
        raise SystemExit(
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error)).exit_code
        ) from None


def _exit_status(error: TrustwatchError) -> int:
    structlog.get_logger(__name__).debug("command failed", code=error.code)
    return fail(error).exit_code
