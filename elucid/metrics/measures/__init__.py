"""What is measured of features: distances, neighbourhoods, scores, and how sure they are."""
