"""Life of models: versions, switches, shadow runs, promotion, drift, and the false-alert budget kept as a chart."""
