"""What is stored to what the network sees, and back."""
