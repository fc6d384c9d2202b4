"""Classification accuracy score (Ravuri & Vinyals 2019): what a classifier learns from synthetic images."""
