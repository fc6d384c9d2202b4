"""What is torchrun's: where processes meet, and how their errors end."""
