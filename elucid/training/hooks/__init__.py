"""What runs beside training: at every tick and snapshot."""
