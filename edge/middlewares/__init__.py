"""What is HTTP's own. Some wrap every request, in one ordered list; some guard the routes whose contract asks for it.

Around every request, outermost first (`app.py` puts them together): `context`, since whatever is logged, measured or
told below bears the ids of the request; then `cors`, which answers preflights that no route knows; then `problem`,
innermost, so that everything that is raised by a route becomes a response that the others see. Headers that every
response has are set by `headers` when it is sent, streams included. Guards run in a route, in this order:
`authentication` before the request is looked at, so that a stranger learns nothing from how we judge their fields;
`idempotency`; the body's limit, when it is read.
"""
