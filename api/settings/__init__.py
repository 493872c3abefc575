"""Settings: one YAML file, a few `TRUSTWATCH_*` variables, and no default for any secret.

Declared in `root.Settings` and the parts below it, each where its subsystem is (base: `trustwatch.ingest.settings`).
Read by `load_settings`; documented by `settings_reference`, to which a test holds `docs/settings.md`. Nothing else in
Trustwatch reads the environment.
"""
