"""Telling everyone at once: a line in short, once a second, and what those who wait may expect."""
