"""Images that others made: looked through, laid over each other, extracted."""
