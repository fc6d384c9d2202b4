"""The verdict on groups of trainings: are they different, and how many more would settle it?"""
