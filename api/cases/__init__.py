"""Cases: rises of risk that belong together, what people do with them, and the story of each."""
