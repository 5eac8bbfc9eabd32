"""The line itself: its rules, what it keeps in Redis, and the scripts that move people."""
