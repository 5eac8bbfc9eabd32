"""Tells people: devices, and the messages that events turn into.

Must not decide anything about places or bookings; it only reads what happened.
"""
