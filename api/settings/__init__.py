"""Settings: one YAML file, variables over every member of it, and no default for any secret.

Declared in `root.Settings` and the parts below it, each where its subsystem is (base: `trustwatch.ingest.settings`).
Read by `load_settings`; documented by `settings_table`, to which a test holds `reference/settings.md`. Nothing else in
Trustwatch reads the environment.
"""
