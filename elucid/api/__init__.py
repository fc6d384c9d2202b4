"""What `import elucid` offers, and what the commands call: plain functions, without click."""
