"""What samples depend on besides their seeds and classes: maps, vectors, measurements, images of less resolution."""
