"""Letting people in: the loop that ticks every live line, who may run it, and how fast it goes."""
