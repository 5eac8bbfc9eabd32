"""Sale events, seats, holds, bookings and payments: everything that must commit together.

Must not know how the line is run, only what an admission token proves.
"""
