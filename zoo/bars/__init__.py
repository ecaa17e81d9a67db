"""What each model is held to, in a file of its name: exact(), closed forms, and bench(seed), known worlds."""
