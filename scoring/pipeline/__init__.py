"""The pipeline, from records of a partition to committed and published decisions."""
