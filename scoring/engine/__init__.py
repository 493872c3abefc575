"""The engine, from feature vectors to risk: agent state, evidence, signals, explanations, feedback rules."""
