"""Does an expansion help: train on each arm, test, intervals."""
