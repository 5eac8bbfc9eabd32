"""What the waiting room costs as its line grows, beside ceilings of the same run. `make bench-queue` runs it."""
