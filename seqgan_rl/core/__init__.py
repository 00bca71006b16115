"""What every other part stands on: errors, configuration, random streams, run folders."""
