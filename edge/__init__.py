"""REST for the outside: a view of the protos over HTTP, and the pages.

Must not know a rule of the business, nor keep anything: what it needs about a method is declared in the contract.
"""
