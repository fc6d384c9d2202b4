"""Models of which each process holds a part: FSDP2, and states written and read by all processes together."""
