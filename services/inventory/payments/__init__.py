"""Payments: the port to providers (`gateway`), one file per provider, and the steps on one screen (`flow`)."""
