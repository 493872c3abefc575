"""Token policy: what a risk level means for an agent's tokens, for whom, and how strictly."""
