"""The waiting room: one line per sale event, and admission to its seats.

Must not know seats, prices or payments.
"""
