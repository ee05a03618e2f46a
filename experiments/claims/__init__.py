"""What README and docs/ say of the files of results/: written and checked."""
