"""Files from elsewhere: downloads and the Hugging Face hub."""
