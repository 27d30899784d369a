"""The wire contracts and the Python code generated from them (`make proto`)."""
