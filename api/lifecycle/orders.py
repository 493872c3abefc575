"""Keys of the store's meta table by which people and the keeper talk about training."""

TRAINING_WISH = "lifecycle.train"
"""A wish as JSON (`by`, `why`, `at_ms`); empty once it is fulfilled."""
LAST_TRAINING = "lifecycle.trained_ms"
"""When a training was begun last, UTC milliseconds."""
