"""What is asked: suites, tasks, custom test sets, their rows and where the rows come from."""
