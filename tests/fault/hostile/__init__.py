"""Files from strangers: made by a script, damaged or made to harm, for every command that reads such files."""
