"""Durable state of the scoring layer, and the only importer of SQLAlchemy and Alembic."""
