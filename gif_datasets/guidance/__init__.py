"""The mathematics: perturbation, criteria, guidance and the classifiers that score."""
