"""Accounts, sessions, and the keys that access tokens are signed with.

Must not know what is sold, who waits, or who is told.
"""
