"""From the zip to a resumable stream of batches."""
