"""Entry point of Alembic: run the migrations on the connection and inside the transaction of the caller."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
)
with context.begin_transaction():
    context.run_migrations()
