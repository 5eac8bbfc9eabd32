"""What a loss of Redis must not take: a line is rebuilt from the event log, and from the places that come back."""
