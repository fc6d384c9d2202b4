"""What samples become: files in a folder, pictures of arrays, grids."""
