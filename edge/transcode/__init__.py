"""From descriptors to HTTP: routes, JSON codecs and the OpenAPI document, all made at start-up."""
