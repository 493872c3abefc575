"""Acts: what people did."""
