"""Tells people where they stand in a line, from the line's digest instead of a call for each of them.

The one thing that the edge knows beyond the contract (docs/decisions/0083). Must not know how a line is run, nor keep
anything that a restart may not lose.
"""
