"""Models: history, figures and orders for the API and the console; training and shadow scoring."""
