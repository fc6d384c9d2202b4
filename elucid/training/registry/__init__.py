"""Short names of components and what each kind must offer, data only."""
