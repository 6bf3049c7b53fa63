"""What a net costs and what it sees."""
