"""What every process needs and no business knows: lifecycle, gRPC, storage and event-log clients, telemetry.

Must not import a service.
"""
