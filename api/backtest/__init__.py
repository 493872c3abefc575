"""Reports as one HTML file: no script, no network, prints well."""
