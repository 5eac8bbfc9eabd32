"""The processes of Boxoffice.

Never put this folder itself on the import path: `queue` would shadow the standard module.
"""
