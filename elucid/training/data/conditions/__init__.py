"""Arrays given beside each image as conditions: maps, masks, fields of less resolution."""
