"""The test kit: a pytest plugin that finds what tests leave behind."""
