"""Names, panels and summaries of these commands, as help shows them before they are loaded."""

from __future__ import annotations

from ..cli.lazy_commands import CommandPanel, LazyCommand

COMMANDS = (
    LazyCommand(
        "serve",
        CommandPanel.SERVICE,
        "Run API, ingest and pipeline until Ctrl-C: all of it, or one part of the distributed form.",
        "trustwatch.api.service.settings_commands:serve",
    ),
    LazyCommand(
        "init",
        CommandPanel.SERVICE,
        "Write a first settings file with comments: a trial on one machine, and what a deployment may need.",
        "trustwatch.api.service.settings_commands:init",
    ),
    LazyCommand(
        "compile",
        CommandPanel.SERVICE,
        "Compile the kernels of the service for this machine, so that its first start is as quick as others.",
        "trustwatch.api.service.commands:compile_command",
    ),
    LazyCommand(
        "backup",
        CommandPanel.SERVICE,
        "Back up database, log, models and keys of the embedded form into a tar, while the service runs.",
        "trustwatch.api.service.data_commands:backup",
    ),
    LazyCommand(
        "restore",
        CommandPanel.SERVICE,
        "Restore a backup into the empty `data_dir` of the settings, after every digest was checked.",
        "trustwatch.api.service.data_commands:restore",
    ),
    LazyCommand(
        "token",
        CommandPanel.SERVICE,
        "Print a token signed with the local development key (only accepted where the settings trust it).",
        "trustwatch.api.service.data_commands:token",
    ),
    LazyCommand(
        "console-link",
        CommandPanel.SERVICE,
        "Print a link that signs in at the console once (where the settings allow a development login).",
        "trustwatch.api.service.data_commands:console_link",
    ),
    LazyCommand(
        "topics", CommandPanel.SERVICE, "Our topics on the brokers.", "trustwatch.api.service.commands:topics_app"
    ),
    LazyCommand(
        "identities",
        CommandPanel.SERVICE,
        "The key under which the database knows its agents.",
        "trustwatch.api.service.commands:identities_app",
    ),
    LazyCommand(
        "settings",
        CommandPanel.SERVICE,
        "Settings: check a file, show the effective ones, or a schema for editors.",
        "trustwatch.api.service.settings_commands:settings_app",
    ),
)
