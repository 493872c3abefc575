"""From feature vectors to risk: agent state, evidence, signals, explanations, feedback rules."""
